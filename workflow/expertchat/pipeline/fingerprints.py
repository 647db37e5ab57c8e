"""Fingerprints of code and files.

A stage's code fingerprint covers its script and every module of this package that the script reaches
by imports, without comments, docstrings and blank lines: a mended comment costs no GPU-day.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SCRIPTS = PACKAGE.parent / "scripts"

# Modules, by exact dotted name, and packages, by their name and ".*", that cannot change what a
# stage makes: they plan, move, check or show. The settings' values are in the recipe itself.
NEUTRAL = frozenset(
    {
        "expertchat",
        "expertchat.console",
        "expertchat.errors",
        "expertchat.pipeline.*",
        "expertchat.settings.*",
    }
)


@cache  # many stages share most files
def essential_source(source: str) -> str:
    """`source` without comments, docstrings (any bare string) and blank lines."""
    lines = [line.encode() for line in source.splitlines()]
    spans = []  # (first line, first byte, last line, end byte), lines from 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            spans.append((node.lineno - 1, node.col_offset, node.end_lineno - 1, node.end_col_offset))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, text = token.start[0] - 1, token.line
            begin = len(text[: token.start[1]].encode())
            spans.append((row, begin, row, begin + len(token.string.encode())))
    for first, begin, last, end in sorted(spans, reverse=True):
        if first == last:
            lines[first] = lines[first][:begin] + lines[first][end:]
        else:
            lines[first] = lines[first][:begin]
            lines[last] = lines[last][end:]
            lines[first + 1 : last] = [b""] * (last - first - 1)
    kept = (line.rstrip() for line in lines)
    return b"\n".join(line for line in kept if line).decode()


def _module_file(name: str) -> Path | None:
    """The file of "expertchat.a.b" below this package, None where there is none."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if path.with_suffix(".py").is_file() and path != PACKAGE:
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def _imported_names(source: str) -> frozenset[str]:
    """What `source` imports, anywhere in it, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError("relative imports are not followed; name the package")
    return frozenset(names)


def _imported_files(path: Path) -> set[Path]:
    """Files of this package that the file at `path` imports, anywhere in it."""
    files = set()
    for name in _imported_names(path.read_text(encoding="utf-8")):
        if name.split(".")[0] == PACKAGE.name:
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                files.add(_module_file(".".join(parts[:length])))
    return files - {None}


def _beside(path: Path) -> set[Path]:
    """The templates that lie beside a subpackage's code and are part of what it does."""
    return set(path.parent.glob("*.jinja")) if path.name == "__init__.py" else set()


def is_neutral(path: Path) -> bool:
    """Whether the file is one of the `NEUTRAL` modules, or in one of the packages named there."""
    parts = path.with_suffix("").relative_to(PACKAGE.parent).parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    packages = {".".join(parts[:length]) + ".*" for length in range(1, len(parts) + 1)}
    return bool(({".".join(parts)} | packages) & NEUTRAL)


def code_files(entry: Path) -> list[Path]:
    """`entry` and every package file that it reaches, less the neutral modules, sorted."""
    found, open_files = set(), [entry]
    while open_files:
        path = open_files.pop()
        if path in found or is_neutral(path):
            continue
        found |= {path} | _beside(path)
        open_files.extend(_imported_files(path))
    return sorted(found)


@cache
def code_fingerprint(stage: str) -> str:
    """16 hexadecimal digits for the code that the stage's script runs."""
    digest = hashlib.sha256()
    for path in code_files(SCRIPTS / f"{stage}.py"):
        digest.update(path.relative_to(PACKAGE.parent).as_posix().encode())
        text = path.read_text(encoding="utf-8")
        digest.update((essential_source(text) if path.suffix == ".py" else text).encode())
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sample(folder: Path, sample_bytes: int = 65536) -> str:
    """A fingerprint of a folder of any size in milliseconds: names, sizes, and the head, middle and
    tail of each file. Tuned weights of unchanged size differ in the samples."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size};".encode())
        with path.open("rb") as file:
            for start in sorted({0, max(0, (size - sample_bytes) // 2), max(0, size - sample_bytes)}):
                file.seek(start)
                digest.update(file.read(sample_bytes))
    return digest.hexdigest()[:16]


def outside_sample(path: Path) -> str:
    """A fingerprint of the user's file (all of it) or folder (see `folder_sample`)."""
    return file_sha256(path)[:16] if path.is_file() else folder_sample(path)
