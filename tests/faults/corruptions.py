"""Corruptions of a finished store: each of them is found by `find_damage`.

corruptions.py --finished FOLDER [--corruptions 300] [--record]; see points.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.store import MANIFEST, artifact_path
from expertchat.pipeline.upkeep import finished_artifacts
from expertchat.records import file_sha256

ALL_CORRUPTIONS, SEED = 300, 7
Draw = random.Random


def flip(path: Path, draw: Draw) -> None:
    """Changes one bit."""
    data = bytearray(path.read_bytes())
    if not data:
        data = bytearray(b"x")
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    rewrite(path, bytes(data))


def cut(path: Path, draw: Draw) -> None:
    """Cuts off the end."""
    data = path.read_bytes()
    rewrite(path, data[: draw.randrange(len(data))] if data else b"x")


def empty(path: Path, draw: Draw) -> None:
    """Empties the file."""
    rewrite(path, b"" if path.stat().st_size else b"x")


def remove(path: Path, draw: Draw) -> None:
    """Removes the file."""
    path.unlink()


def rewrite(path: Path, data: bytes) -> None:
    """Gives the file new content, and not the files that it shares its inode with."""
    path.unlink()
    path.write_bytes(data)


def on_a_file(harm: Callable[[Path, Draw], None]) -> Callable[[Path, Draw], None]:
    """Does `harm` to a file of a random artifact, its manifest included."""

    def corrupt(store: Path, draw: Draw) -> None:
        folder = artifact_path(store, draw.choice(finished_artifacts(store)))
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".")]
        harm(draw.choice(files), draw)

    return corrupt


def add(store: Path, draw: Draw) -> None:
    """A file that is not listed."""
    folder = artifact_path(store, draw.choice(finished_artifacts(store)))
    (folder / "more.bin").write_bytes(draw.randbytes(10))


def swap(store: Path, draw: Draw) -> None:
    """Two artifacts of a stage change their places."""
    stages: dict[str, list[str]] = {}
    for reference in finished_artifacts(store):
        stages.setdefault(reference.split("/")[0], []).append(reference)
    first, second = draw.sample(draw.choice([own for own in stages.values() if len(own) > 1]), 2)
    paths = [artifact_path(store, reference) for reference in (first, second)]
    paths[0].rename(store / "moved")
    paths[1].rename(paths[0])
    (store / "moved").rename(paths[1])


def change_manifest(store: Path, draw: Draw) -> None:
    """The manifest is valid JSON, and something in it is missing or different."""
    folder = artifact_path(store, draw.choice(finished_artifacts(store)))
    manifest = json.loads((folder / MANIFEST).read_text())
    kind = draw.randrange(4)
    if kind == 0 and manifest["files"]:
        manifest["files"].pop(draw.choice(sorted(manifest["files"])))
    elif kind == 1:
        manifest["recipe"]["settings"]["added"] = draw.random()
    elif kind == 2:
        manifest["recipe"]["code"] = "0" * 16
    else:
        manifest.pop(draw.choice(["recipe", "files"]))
    rewrite(folder / MANIFEST, json.dumps(manifest).encode())


def change_with_checksum(store: Path, draw: Draw) -> None:
    """A file changes together with its checksum; someone has read the artifact."""
    read = {
        reference
        for reader in finished_artifacts(store)
        for reference in json.loads((artifact_path(store, reader) / MANIFEST).read_text())["inputs"]
    }
    folder = artifact_path(store, draw.choice(sorted(read)))
    manifest = json.loads((folder / MANIFEST).read_text())
    name = draw.choice(sorted(name for name, entry in manifest["files"].items() if "sha256" in entry))
    flip(folder / name, draw)
    entry = {"size": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
    manifest["files"][name] = entry
    rewrite(folder / MANIFEST, json.dumps(manifest).encode())


CORRUPTIONS: dict[str, Callable[[Path, Draw], None]] = {
    **{harm.__name__: on_a_file(harm) for harm in (flip, cut, empty, remove)},
    **{harm.__name__: harm for harm in (add, swap, change_manifest, change_with_checksum)},
}


def is_found(finished: Path, kind: str, seed: int) -> bool:
    """Whether some artifact of a corrupted copy of the store is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "results"
        shutil.copytree(finished / "results", store, symlinks=True, copy_function=os.link)
        before = finished_artifacts(store)
        CORRUPTIONS[kind](store, random.Random(seed))
        if finished_artifacts(store) != before:  # without its manifest an artifact is not used
            return True
        return any(find_damage(artifact_path(store, reference)) for reference in before)


def try_all(finished: Path, count: int) -> list[tuple[str, int]]:
    """The corruptions that were not found, of `count` of all kinds."""
    names = sorted(CORRUPTIONS)
    drawn = [(names[number % len(names)], SEED + number) for number in range(count)]
    return [(kind, seed) for kind, seed in drawn if not is_found(finished, kind, seed)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--finished", type=Path, required=True, help="folder of a finished experiment")
    parser.add_argument("--corruptions", type=int, default=ALL_CORRUPTIONS)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    missed = try_all(arguments.finished, arguments.corruptions)
    total = arguments.corruptions
    kinds = ", ".join(sorted(CORRUPTIONS))
    text = f"{total - len(missed)} of {total} corruptions of a finished store were found ({kinds})."
    print(text, *missed, sep="\n")
    if arguments.record:
        from record import record

        record("Corruptions on purpose", "tests/faults/corruptions.py", text)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
