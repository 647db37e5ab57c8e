"""Text that models, servers or users wrote: how it is read, and how it is shown in messages, in
terminals and on the page."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import unicodedata
import zlib
from pathlib import Path
from typing import Any

from expertchat.errors import UserError

MOST_BYTES = 256 << 20  # of a file that is read in whole
MOST_DIGITS = 300  # of a number in JSON; any such number fits into a float
MOST_LINES, MOST_CHARACTERS = 25, 900  # of a message, and of a line of it
KEPT_END = 200  # characters at the end of a line that is too long; there it says what to do
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogates, line and paragraph


def read_text(
    path: Path, hint: str = "", most_bytes: int = MOST_BYTES, same_line_ends: bool = False
) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; of a .gz file decompressed.

    Each line ends with "\\n", or as in the file with `same_line_ends`. Raises UserError with the file
    and, if possible, the line if the file cannot be read (`hint` then says what it should be), is larger
    than `most_bytes`, or is not UTF-8 text: NUL bytes are none.
    """
    more = f"; {hint}" if hint else ""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise UserError(f"{path}: it is not a file{more}")
        size = path.stat().st_size
        if size > most_bytes:
            raise UserError(f"{path}: {size:,} bytes; at most {most_bytes:,} are read")
        data = _content(path, most_bytes).removeprefix(codecs.BOM_UTF8)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a valid gzip file: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}{more}") from None
    except ValueError:  # a name with NUL or a lone surrogate
        raise UserError(f"{path}: no file can have this name{more}") from None
    if b"\0" in data:
        place = f"{path}, line {_line(data, data.index(0))}"
        raise UserError(f"{place}: a NUL byte; is this a UTF-8 text file?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        place, byte = f"{path}, line {_line(data, error.start)}", data[error.start]
        raise UserError(f"{place}: not UTF-8 (byte 0x{byte:02x})") from None
    return text if same_line_ends else text.replace("\r\n", "\n").replace("\r", "\n")


def _content(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file; of a .gz file decompressed, no further than `most_bytes` allows."""
    if path.suffix != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise UserError(f"{path}: at most {most_bytes:,} bytes are read; it decompresses to more")
    return data


def _line(data: bytes, position: int) -> int:
    """The line, from 1, of the byte at `position`."""
    return len((data[:position] + b"x").splitlines())


def parse_json(text: str, where: str) -> Any:
    """The value of a user's JSON text. `where`: its file and line or entry.

    Raises UserError if it is not valid, as `json_value` does, and for a key that an object has twice.
    """
    text = text.rstrip()
    try:
        value = json_value(text, unique_keys=True)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise UserError(f"{where}: \\u{code:04x} without its other half is no character") from None
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise UserError(f"{where}{line}, column {error.colno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return value


def json_value(text: str, unique_keys: bool = False) -> Any:
    """The value of a JSON text.

    Raises ValueError if it is not valid, for NaN and infinities, for numbers that no float can hold, for
    values that are nested too deeply and, with `unique_keys`, for a key that an object has twice.
    """
    try:
        return json.loads(
            text,
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_number,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{one_line(text, 40)} is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object. Python's json keeps the last value of a duplicate key without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{one_line(twice, 80)}: this key is given more than once")
    return found


def whole_characters(value: Any) -> Any:
    """A JSON value with U+FFFD in place of lone surrogates, which cannot be written as UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(item) for key, item in value.items()}
    return value


def shown(text: str) -> str:
    """`text` with each character that cannot be seen or that moves others replaced by ⟨U+XXXX⟩.

    These are control characters other than line breaks and tabs, format characters (direction marks,
    zero-width characters, tags), lone surrogates, and Unicode's line and paragraph separators.
    """
    return "".join(f"⟨U+{ord(c):04X}⟩" if hidden(c) else c for c in text)


def hidden(character: str) -> bool:
    """Whether `shown` spells the character out."""
    return character not in "\n\t" and unicodedata.category(character) in HIDDEN


def told(message: str) -> str:
    """`shown`, for a message about an error, with at most `MOST_LINES` lines of `MOST_CHARACTERS`.

    Whatever a file contains, its fault can then be read.
    """
    lines = [_cut(line) for line in shown(message).split("\n")]
    more = len(lines) - MOST_LINES
    return "\n".join(lines if more <= 0 else [*lines[:MOST_LINES], f"  and {more:,} lines more"])


def _cut(line: str) -> str:
    """The line without its middle if it is too long."""
    if len(line) <= MOST_CHARACTERS:
        return line
    return f"{line[: MOST_CHARACTERS - KEPT_END - 3]} … {line[-KEPT_END:]}"


def one_line(text: str, limit: int) -> str:
    """`shown`, on one line and with at most `limit` characters."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"
