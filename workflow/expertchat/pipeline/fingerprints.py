"""Fingerprints of code and files.

The code fingerprint of a stage covers its script and every module of this package that the script
imports, directly or through other modules, except those in `NEUTRAL` and what only they import.
Comments, docstrings and blank lines do not count, so that editing a comment does not invalidate any
result.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from expertchat.records import file_sha256

PACKAGE = Path(__file__).resolve().parents[1]
SCRIPTS = PACKAGE.parent / "scripts"

# Modules, by exact dotted name, and packages, by their name and ".*", that cannot change what a
# stage makes: they plan, move, check or show. The settings' values are in the recipe itself.
NEUTRAL = frozenset(
    {
        "expertchat",
        "expertchat.checkpoints",
        "expertchat.console",
        "expertchat.errors",
        "expertchat.limits",
        "expertchat.pipeline.*",
        "expertchat.settings.*",
    }
)

# A string literal or a comment, whichever begins first. Every planning reads all modules, and Python's
# own tokenizer takes several times as long.
LITERAL_OR_COMMENT = re.compile(
    rb"""
    (?P<quotes>\"{3}|'{3}) (?:\\.|[^\\])*? (?P=quotes)
    | " (?:\\.|[^"\\\n])* "
    | ' (?:\\.|[^'\\\n])* '
    | \#[^\n]*
    """,
    re.DOTALL | re.VERBOSE,
)


def _nested(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of `body` and all statements inside them."""
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from _nested(getattr(statement, name, []))
        for block in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from _nested(block.body)


@dataclass(frozen=True)
class _Outline:
    """What a fingerprint needs to know about a module's source."""

    imports: frozenset[str]  # dotted names, imports inside functions included
    bare_strings: tuple[tuple[int, int], ...]  # (first byte, end byte) of docstrings and the like


@cache  # many stages share most files
def _outline(source: str) -> _Outline:
    line_starts = [0]  # in bytes, as the columns of the syntax tree
    for line in source.encode().splitlines(keepends=True):
        line_starts.append(line_starts[-1] + len(line))
    imports: set[str] = set()
    bare_strings = []
    for node in _nested(ast.parse(source).body):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError("relative imports are not followed; use the full name of the package")
            imports.add(node.module)
            imports.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            begin = line_starts[node.lineno - 1] + node.col_offset
            end_line, end_column = node.end_lineno or 0, node.end_col_offset or 0  # 1-based, from 0
            bare_strings.append((begin, line_starts[end_line - 1] + end_column))
    return _Outline(frozenset(imports), tuple(sorted(bare_strings)))


@cache
def essential_source(source: str) -> str:
    """`source` without comments, docstrings (any bare string) and blank lines."""
    text = source.encode()
    code, position = b"", 0
    for begin, end in [*_outline(source).bare_strings, (len(text), len(text))]:
        code += LITERAL_OR_COMMENT.sub(_without_comment, text[position:begin])
        position = end
    lines = (line.rstrip() for line in code.splitlines())
    return b"\n".join(line for line in lines if line).decode()


def _without_comment(match: re.Match[bytes]) -> bytes:
    """Nothing for a comment. A string literal stays, blank lines inside included: they are content."""
    return b"" if match[0].startswith(b"#") else match[0].replace(b"\n", b"\0")


@cache
def _module_file(name: str) -> Path | None:
    """The file of module "expertchat.a.b" in this package, None if there is no such module."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if path.with_suffix(".py").is_file() and path != PACKAGE:
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _imported_files(path: Path) -> frozenset[Path]:
    """The files of this package that the file at `path` imports, with the packages they are in."""
    files: set[Path | None] = set()
    for name in _outline(_read(path)).imports:
        parts = name.split(".")
        if parts[0] == PACKAGE.name:
            files |= {_module_file(".".join(parts[:length])) for length in range(1, len(parts) + 1)}
    return frozenset(file for file in files if file is not None)


@cache
def _templates(path: Path) -> frozenset[Path]:
    """The templates in the folder of a package's `__init__.py`, which its modules may read."""
    return frozenset(path.parent.glob("*.jinja")) if path.name == "__init__.py" else frozenset()


@cache
def is_neutral(path: Path) -> bool:
    """Whether the file is one of the `NEUTRAL` modules, or in one of the packages named there."""
    parts = path.with_suffix("").relative_to(PACKAGE.parent).parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    packages = {".".join(parts[:length]) + ".*" for length in range(1, len(parts) + 1)}
    return bool(({".".join(parts)} | packages) & NEUTRAL)


def code_files(entry: Path) -> list[Path]:
    """`entry` and every package file that it reaches by imports, without the neutral ones, sorted."""
    reached: set[Path] = set()
    to_visit = [entry]
    while to_visit:
        path = to_visit.pop()
        if path not in reached and not is_neutral(path):
            reached |= {path} | _templates(path)
            to_visit.extend(_imported_files(path))
    return sorted(reached)


@cache
def code_fingerprint(stage: str) -> str:
    """16 hexadecimal digits that identify the code that the stage's script runs."""
    digest = hashlib.sha256()
    for path in code_files(SCRIPTS / f"{stage}.py"):
        digest.update(path.relative_to(PACKAGE.parent).as_posix().encode())
        text = _read(path)
        digest.update((essential_source(text) if path.suffix == ".py" else text).encode())
    return digest.hexdigest()[:16]


def folder_sample(folder: Path, sample_bytes: int = 65536) -> str:
    """A fingerprint of a folder of any size, taken in milliseconds.

    It covers the name, the size, and the first, middle and last `sample_bytes` of each file, so that
    tuned weights are recognized although their size did not change.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size};".encode())
        with path.open("rb") as file:
            for start in sorted({0, max(0, (size - sample_bytes) // 2), max(0, size - sample_bytes)}):
                file.seek(start)
                digest.update(file.read(sample_bytes))
    return digest.hexdigest()[:16]


def user_file_fingerprint(path: Path) -> str:
    """A fingerprint of a user's file (all its bytes) or folder (see `folder_sample`)."""
    return file_sha256(path)[:16] if path.is_file() else folder_sample(path)
