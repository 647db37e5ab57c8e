"""How a secret can be spelled, worked out apart from the code that hides it, and where it is found."""

import base64
import gzip
import html
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq


def echoed_forms(secret: str) -> list[str]:
    """The secret as a server could echo it, whole and within other words."""
    raw = secret.encode()
    base64s = [base64.b64encode(b"x" * n + raw + b"yz").decode() for n in range(3)]
    return [
        secret,
        f"Authorization: Bearer {secret}!",
        quote(secret),
        quote(secret, safe=""),
        lower_codes(quote(secret, safe="")),
        json.dumps(secret),
        json.dumps(json.dumps(secret)),
        html.escape(secret),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(b"Bearer " + raw).decode(),
        *base64s,
        raw.hex(),
        raw.hex().upper(),
        raw.hex(" "),
        "".join(f"%{byte:02X}" for byte in raw),
        "".join(f"\\x{byte:02x}" for byte in raw),
    ]


def lower_codes(text: str) -> str:
    """An address with %2f in place of %2F."""
    return re.sub("%..", lambda code: code[0].lower(), text)


def needles(secret: str) -> list[bytes]:
    """Byte strings of which one is in every file that shows the secret in some form."""
    raw = secret.encode()
    found = {raw}
    for safe in ("/", ""):
        found |= {quote(secret, safe).encode(), lower_codes(quote(secret, safe)).encode()}
    found |= {json.dumps(secret)[1:-1].encode(), html.escape(secret).encode()}
    for text in (json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1]):
        found |= {text.encode(), text.replace("/", "\\/").encode()}
    for before in range(3):
        begin, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        whole = base64.b64encode(b"\0" * before + raw)[begin:end]
        found |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    for digits in (raw.hex(), raw.hex(" "), raw.hex("%"), raw.hex(":")):
        found |= {digits.encode(), digits.upper().encode()}
    found |= {repr(secret)[1:-1].encode(), secret.replace("\\", "\\\\").encode()}
    found.add("\\x".join(f"{byte:02x}" for byte in raw).encode())
    return sorted(found)


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is compressed in it."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        for name in table.column_names:
            yield "\n".join(map(str, table[name].to_pylist())).encode()
    elif path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())


def places_of(secret: str, folder: Path) -> list[str]:
    """Where the secret is in a folder, in any form: "file: form", file names included."""
    found = []
    for path in sorted(folder.rglob("*")):
        texts = [str(path.relative_to(folder)).encode()]
        if path.is_file() and not path.is_symlink():
            texts += contents(path)
        found += [f"{path}: {form!r}" for form in needles(secret) if any(form in text for text in texts)]
    return found
