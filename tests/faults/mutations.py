"""Strategies that make bad inputs of valid ones: in their structure, in their text, in their bytes."""

from __future__ import annotations

import codecs
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Tree = Any  # of dicts, lists and scalars
Dump = Callable[[Tree], str]

# texts that are written as they stand, where a value or a key of the tree is replaced by "@number@"
RAW = (
    "[" * 5_000 + "]" * 5_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000,
    "[" * 100_000,
    *("9" * 400, "9" * 5_000, "-9" * 30, "1e999", "-1e999", "1e308", "0.1e-999", "NaN", "Infinity"),
    *(".nan", "-.inf", "0x1F", "1_000", "1:30:00", "2024-02-31", "2024-01-01T00:00:00Z", "~", ""),
    *("!!python/object:os.system x", "!!binary AAAA", "!!set {a}", "!!float x", "!!omap [a: 1]"),
    *("*a", "&a [*a, *a]", "&a {<<: *a}", "{<<: 1}", "{<<: [1]}", "{? [a]: 1}", "{? {a: 1}: 1}"),
    *('"\\ud800"', '"\\u202e"', '"\\u0000"', '"\\x1b[2J"', "'", '"', "{{ 1", "%", "|", "\t- x"),
)
MARKS = (
    *("\0", "\x1b[2J\x1b[31m", "\x7f", "\x85", "\u2028", "\u202eabc", "\u2066", "\u200b", "\ufeff"),
    *(
        "\U000e0041",
        "\U0010ffff",
        "\ufffe",
        "\r",
        "\n",
        "\r\n",
        "\t",
        "é",
        "e\u0301" * 50,
        "漢字",
        "🏳️‍🌈",
    ),
)
ODD_TEXTS = (
    *("", " ", "\n", "x" * 100_000, "x\ny" * 30, "a b " * 20_000, "../../../etc/passwd", "/dev/zero"),
    *(
        "/",
        ".",
        "-",
        "~",
        "a/b",
        "a" * 300,
        "null",
        "None",
        "yes",
        "1",
        "-1",
        "nan",
        "source",
        "{{ 1 }}",
    ),
    *("{% for %}", "%s%n", "{0}", "{port}", "$HOME", "`id`", "';--", "<script>", "'\"", "\\", "=1+1"),
    *MARKS,
    "\ud800",
    "a\udfffb",
)
odd_texts = st.one_of(
    st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=()), max_size=12)
)
raw = st.integers(0, len(RAW) - 1).map("@{}@".format)
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 10**6, 2**31, 2**63, -(2**63) - 1, 2**64, 10**19, 10**300]),
    st.sampled_from([0.0, -0.0, 0.5, 1.5, 1e300, -1e-300, float("nan"), float("inf"), -float("inf")]),
    st.integers(),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, odd_texts, raw)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(odd_texts, inner, max_size=4)),
    max_leaves=6,
)


def places(tree: Tree, here: tuple = ()) -> Iterator[tuple]:
    """The keys that lead to each value within the tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from places(value, (*here, key))


@st.composite
def mutated_tree(draw: st.DrawFn, tree: Tree) -> Tree:
    """The tree with one to three changes of its structure."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(tree))
        if not found or draw(st.integers(0, 19)) == 0:
            return draw(values)
        *way, key = draw(st.sampled_from(found))
        parent = tree
        for step in way:
            parent = parent[step]
        change = draw(
            st.sampled_from(["drop", "rename", "replace", "replace", "wrap", "repeat", "move"])
        )
        if change == "drop":
            del parent[key]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.one_of(odd_texts, raw))] = parent.pop(key)
        elif change == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}, [[parent[key]] * 3]]))
        elif change == "repeat":
            parent[key] = [copy.deepcopy(parent[key]) for _ in range(draw(st.sampled_from([2, 20])))]
        elif change == "move":
            other = tree
            for step in draw(st.sampled_from(found)):
                if not isinstance(other, (dict, list)) or (
                    isinstance(other, dict) and step not in other
                ):
                    break
                if isinstance(other, list) and not (isinstance(step, int) and step < len(other)):
                    break
                other = other[step]
            parent[key] = copy.deepcopy(other)
        else:
            parent[key] = draw(values)
    return tree


def with_raw(text: str) -> str:
    """The text of a dumped tree with the texts of `RAW` in their places."""
    return re.sub(r"""(["']?)@(\d+)@\1""", lambda found: RAW[int(found[2])], text)


@st.composite
def mutated_text(draw: st.DrawFn, text: str, parts: Sequence[str] = ODD_TEXTS) -> str:
    """The text with one to three changes of its lines. `parts`: what is put into it."""
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["twice", "drop", "swap", "put", "put", "put", "indent", "line"]))
        if change == "twice":
            lines.insert(at, lines[at])
        elif change == "drop":
            del lines[at]
        elif change == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif change == "indent":
            lines[at] = draw(st.sampled_from([" ", "  ", "\t", "- ", "? "])) + lines[at]
        elif change == "line":
            lines.insert(at, draw(st.sampled_from(parts)))
        else:
            column = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:column] + draw(st.sampled_from(parts)) + lines[at][column:]
        text = "\n".join(lines)
    return text


ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7", "cp037")
PIECES = (
    *(codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, b"\0", b"\xff"),
    *(b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\x1b", b"\r", b"\n", b"\n\n", b'"'),
    *(b",", b"'", b"{", b"}", b"[", b"]", b":", b"%", b"#", b"\t", b"\\", b"\xc2\x85", b"\xe2\x80\xa8"),
)


def as_bytes(text: str) -> bytes:
    """UTF-8, in which lone surrogates become bytes that are not valid."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with one to three changes, or in another encoding."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["flip", "flip", "cut", "remove", "put", "put", "encode", "ends"]))
        if change == "flip" and at < len(data):
            flipped = data[at] ^ (1 << draw(st.integers(0, 7)))
            data = data[:at] + bytes([flipped]) + data[at + 1 :]
        elif change == "cut":
            data = data[:at]
        elif change == "remove":
            data = data[:at] + data[at + draw(st.integers(1, 40)) :]
        elif change == "encode":
            text = data.decode("utf-8", "replace")
            data = text.encode(draw(st.sampled_from(ENCODINGS)), "replace")
        elif change == "ends":
            data = data.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b""])))
        else:
            data = (
                data[:at] + draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8))) + data[at:]
            )
    return data


@st.composite
def damaged(
    draw: st.DrawFn,
    trees: Sequence[Tree],
    dump: Dump,
    parts: Sequence[str] = ODD_TEXTS,
) -> bytes:
    """A file: one of the valid trees, changed at one or more levels, or arbitrary bytes.

    `dump` writes a tree as text; `parts` are put into the text.
    """
    level = draw(st.sampled_from(["tree"] * 4 + ["text"] * 2 + ["bytes"] * 2 + ["all", "noise"]))
    if level == "noise":
        return draw(
            st.one_of(st.binary(max_size=200), odd_texts.map(as_bytes), raw.map(with_raw).map(as_bytes))
        )
    tree = draw(st.sampled_from(trees))
    if level in ("tree", "all"):
        tree = draw(mutated_tree(tree))
    text = with_raw(dump(tree))
    if level in ("text", "all"):
        text = draw(mutated_text(text, parts))
    data = as_bytes(text)
    return draw(mutated_bytes(data)) if level in ("bytes", "all") else data
