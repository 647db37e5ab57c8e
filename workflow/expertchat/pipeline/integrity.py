"""Whether a finished artifact is what its name says: its recipe, its files, and what it was made of.

Each of these is checked against something that lies elsewhere. The recipe gives the id, which is the
name of the folder. Sizes and checksums of the files are in the manifest. And the digest of those is in
the manifest of every artifact that read this one, so that a file and its checksum cannot change together
unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import (
    KEPT,
    MANIFEST,
    artifact_path,
    digest_of,
    manifest_path,
    read_manifest,
)
from expertchat.records import file_sha256


def find_damage(folder: Path, *, full: bool = False) -> list[str]:
    """One sentence for each way in which a finished artifact is not what it must be; empty if none.

    `full`: files behind links are read in whole; otherwise only those whose size or time of change is
    not the recorded one.
    """
    try:
        manifest = read_manifest(folder)
        damage = [*_recipe_faults(folder, manifest), *_input_faults(folder, manifest)]
        recorded = manifest["files"]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if (path.is_symlink() or not path.is_dir()) and name not in (*recorded, MANIFEST, KEPT):
                damage.append(f"{path}: not in the list of files of {MANIFEST}")
        for name, entry in recorded.items():
            damage += (
                _link_faults(folder / name, entry, full)
                if "link" in entry
                else _file_faults(folder / name, entry)
            )
    except UserError as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"{folder / MANIFEST}: it is not a manifest ({type(error).__name__}: {error})"]
    except OSError as error:
        return [f"{error.filename or folder}: {error.strerror}"]
    return damage


def _recipe_faults(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """A manifest that is not its copy any more, and a recipe whose id is not the name of the folder."""
    if (folder / KEPT).exists() and (folder / KEPT).read_bytes() != (folder / MANIFEST).read_bytes():
        yield f"{folder / MANIFEST}: it differs from its copy, {KEPT}"
    reference = Recipe.from_dict(manifest["recipe"]).reference
    if reference != f"{folder.parent.name}/{folder.name}":
        yield f"{folder}: the recipe in {MANIFEST} is that of {reference}"


def _input_faults(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Inputs in the store that are not the ones that this artifact was made of."""
    store = folder.parent.parent
    for reference, digest in manifest.get("inputs", {}).items():
        if manifest_path(store, reference).exists():
            try:
                same = digest_of(artifact_path(store, reference)) == digest
            except (UserError, KeyError, TypeError, AttributeError):
                continue  # a fault of that artifact's manifest, and not of this one
            if not same:
                yield f"{folder}: it was made of other files of {reference} than the store has"


def _file_faults(path: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    if path.is_symlink() or not path.is_file():
        yield f"{path}: missing"
    elif path.stat().st_size != entry["size"]:
        yield f"{path}: its size is {path.stat().st_size} bytes instead of {entry['size']}"
    elif file_sha256(path) != entry["sha256"]:
        yield f"{path}: its checksum differs from the one in the manifest"


def _link_faults(path: Path, entry: Mapping[str, Any], full: bool) -> Iterator[str]:
    if not path.is_symlink() or not path.exists():
        yield f"{path}: the target of this link, {entry['link']}, does not exist"
        return
    for name, expected in entry.get("files", {}).items():
        file = path / name if name else path
        if not file.is_file():
            yield f"{file}: missing in the target of the link, {entry['link']}"
            continue
        status = file.stat()
        same_size = status.st_size == expected["size"]
        suspicious = full or status.st_mtime_ns != expected["mtime_ns"]
        if not same_size or (suspicious and file_sha256(file) != expected["sha256"]):
            yield f"{file}: it has changed since the link was made"
