"""Text that others wrote is shown with everything spelled out that cannot be seen."""

import gzip
import os

import pytest
from expertchat.errors import UserError
from expertchat.foreign import one_line, parse_json, read_text, shown, told, whole_characters


@pytest.mark.parametrize(
    "character",
    [
        *("\x00", "\x07", "\x1b", "\x7f", "\x9b", "\r"),  # control characters, escape sequences
        *("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\U000e0041"),  # zero width, tags
        *("\u202e", "\u2066", "\u061c"),  # direction
        *("\u2028", "\u2029", "\ud800"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(character):
    assert shown(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


def test_what_can_be_seen_stays():
    text = "Grüße, 你好, مرحبا, e\u0301, 🙂\n\tok\u00a0."
    assert shown(text) == text


def test_one_line_is_short_and_one_line():
    assert one_line("a\n b\x1b[31m", 40) == "a b⟨U+001B⟩[31m"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ', "a.json, column 6: not valid JSON: Expecting value"),
        ('{\n"a" 1}', "a.json, line 2, column 5: not valid JSON: Expecting ':' delimiter"),
        ("[" * 10**6, "a.json: its values are nested too deeply"),
        ("[NaN]", "a.json: NaN is not JSON"),
        ("1e999", "a.json: 1e999 is too large"),
        ("9" * 5000, "a.json: a number of 5,000 digits; at most 300 are read"),
        ('{"a": 1, "a": 2}', "a.json: a: this key is given more than once"),
        ('["\\ud800"]', "a.json: \\ud800 without its other half is no character"),
    ],
)
def test_json_that_cannot_be_used_is_refused(text, words):
    with pytest.raises(UserError) as caught:
        parse_json(text, "a.json")
    assert str(caught.value).startswith(words)


def test_json_of_whole_characters_is_read():
    assert parse_json('{"a": ["\\ud83c\\udf5e", 1e308, 9]}\n', "a.json") == {"a": ["🍞", 1e308, 9]}
    assert whole_characters({"\ud800": ["a\udc00b", "🍞", 1]}) == {"\ufffd": ["a\ufffdb", "🍞", 1]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\nb\xff", "a.txt, line 2: not UTF-8 (byte 0xff)"),
        (b"a\n\0", "a.txt, line 2: a NUL byte; is this a UTF-8 text file?"),
        (b"x" * 101, "a.txt: 101 bytes; at most 100 are read"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, data, words):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_text(tmp_path / "a.txt", most_bytes=100)
    assert str(caught.value).endswith(words)


def test_a_compressed_file_is_read_as_far_as_it_may_be(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfa\r\nb"))
    assert read_text(path) == "a\nb"
    path.write_bytes(gzip.compress(b"x" * 100))
    assert read_text(path, most_bytes=100) == "x" * 100
    path.write_bytes(gzip.compress(b"x" * 10**6, compresslevel=9))
    assert path.stat().st_size < 2000
    with pytest.raises(UserError, match="at most 2,000 bytes are read; it decompresses to more"):
        read_text(path, most_bytes=2000)


# the writer's clock stands in the bytes: without the ids, two processes collect different tests
@pytest.mark.parametrize(
    "data",
    [
        b"no gzip",
        gzip.compress(b"x" * 100)[:-9],
        gzip.compress(b"x" * 100)[:-8] + bytes(8),
        gzip.compress(b"x" * 100)[:10] + b"\xff" * 20,
    ],
    ids=["no gzip", "cut off", "another checksum", "nothing that can be decompressed"],
)
def test_a_damaged_compressed_file_is_refused(tmp_path, data):
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.gz: not a valid gzip file: "):
        read_text(tmp_path / "a.gz")


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("pipe", "pipe: it is not a file; name a file"),
        ("none", "none: No such file or directory; name a file"),
        ("a\0", "no file can have this name; name a file"),
        ("x" * 300, "File name too long; name a file"),
    ):
        with pytest.raises(UserError) as caught:
            read_text(tmp_path / name, "name a file")
        assert str(caught.value).endswith(words)


def test_line_ends_and_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"
    assert read_text(tmp_path / "a.txt", same_line_ends=True) == "a\r\nb\rc\n"


def test_a_message_has_few_lines_and_shows_what_cannot_be_seen():
    assert told("a.csv: no topic\n  \x1b") == "a.csv: no topic\n  ⟨U+001B⟩"
    long = told("a.csv: " + "x" * 10_000 + "; name a file")
    assert len(long) == 900 and long.startswith("a.csv: xx") and long.endswith("x; name a file")
    assert told("\n".join(map(str, range(40)))).endswith("\n23\n24\n  and 15 lines more")
