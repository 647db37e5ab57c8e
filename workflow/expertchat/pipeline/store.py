"""The store: finished artifacts in `<store>/<stage>/<id>/`, each with a manifest.

A job works in `<store>/work/<stage>/<id>/`, where it can resume after an interruption. The finished
artifact, manifest included, is moved to its final path by one atomic rename. If work and artifacts are
on different file systems, it is copied to `<store>/<stage>/.moving/` first.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expertchat.checkpoints import sync
from expertchat.errors import UserError
from expertchat.pipeline.recipes import Recipe, short_hash
from expertchat.records import file_sha256

MANIFEST = "manifest.json"
MOVING = ".moving"  # in a stage's folder: what is on its way in or out
KEPT = ".manifest.json"  # the same manifest, which Snakemake does not know and so does not delete


def artifact_path(store: Path, reference: str) -> Path:
    """The folder of the finished artifact "stage/id"."""
    return store / reference


def manifest_path(store: Path, reference: str) -> Path:
    """The manifest of the artifact "stage/id", the only output that its job declares to Snakemake."""
    return artifact_path(store, reference) / MANIFEST


def recipe_path(store: Path, reference: str) -> Path:
    """The file with the recipe, which is the argument of the job.

    Jobs get its path instead of its text because Linux refuses arguments of more than 128 KiB.
    """
    return store / "recipes" / f"{reference}.json"


def work_path(store: Path, reference: str) -> Path:
    """The folder in which the job works. The checkpoints of an interrupted job stay there."""
    return store / "work" / reference


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in an artifact's folder. Raises UserError if it is missing or is not a manifest."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST}, so the artifact is not finished") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(manifest, dict) or not {"recipe", "files"} <= manifest.keys():
        raise UserError(f"{path}: it is not a manifest: it has no recipe or no list of files")
    return manifest


def write_recipe(store: Path, recipe: Recipe) -> None:
    """Writes the file of the recipe in one atomic step, unless it exists already."""
    path, text = recipe_path(store, recipe.reference), recipe.to_json()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_recipe(store: Path, reference: str) -> Recipe:
    """The recipe of an artifact, from its own file or, without that, from the artifact's manifest."""
    path = recipe_path(store, reference)
    if path.exists():
        return Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return Recipe.from_dict(read_manifest(artifact_path(store, reference))["recipe"])


def write_manifest(folder: Path, recipe: Recipe, run: dict[str, Any], store: Path | None = None) -> None:
    """Writes the manifest of `folder`: the recipe, its files, and `run` (versions, seconds etc.).

    It also holds the digest of each input in `store`, which shows later whether this artifact was made
    of what the store has then. None: the digests are not known.
    """
    read = {} if store is None else {r: digest_of(artifact_path(store, r)) for r in recipe.references()}
    manifest = {
        "recipe": {"id": recipe.id, **asdict(recipe)},
        **run,
        "inputs": read,
        "files": list_files(folder),
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    shutil.copyfile(folder / MANIFEST, folder / KEPT)


def restore_manifest(store: Path, reference: str) -> None:
    """Puts back the manifest of a finished artifact if Snakemake has deleted it.

    Before a job, Snakemake deletes the output that it declares. The artifact may have been finished by
    then, by a job that went on after its Snakemake was killed, or by another Snakemake.
    """
    folder = artifact_path(store, reference)
    if (folder / KEPT).exists() and not (folder / MANIFEST).exists():
        # beside the artifact: a file that is left in it would be damage
        temporary = _beside(folder, f"{folder.name}-{MANIFEST}")
        shutil.copyfile(folder / KEPT, temporary)
        os.replace(temporary, folder / MANIFEST)


def date_back(store: Path, references: Iterable[str]) -> None:
    """Sets the times of manifests that are in the future to the present.

    Snakemake fails a job that has an input newer than its output, and deletes the output, at each try.
    """
    now = time.time()
    for reference in references:
        with suppress(OSError):  # it does not exist, or is another user's
            path = manifest_path(store, reference)
            if path.stat().st_mtime > now:
                os.utime(path, (now, now))


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file below `folder`.

    A link is recorded by its target and by the files there, which are the user's own: their sizes,
    times of change and SHA-256. Hidden files of the target do not count.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = {"link": os.readlink(path), "files": _linked_files(path)}
        elif path.is_file() and name not in (MANIFEST, KEPT):
            files[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    return files


def _linked_files(link: Path) -> dict[str, dict[str, Any]]:
    """{name: {size, mtime_ns, sha256}} of the files behind a link; "" is the name of a linked file."""
    found = (
        {"": link}
        if link.is_file()
        else {
            path.relative_to(link).as_posix(): path
            for path in sorted(link.glob("**/*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(link).parts)
        }
    )
    return {
        name: {"size": s.st_size, "mtime_ns": s.st_mtime_ns, "sha256": file_sha256(path)}
        for name, path in found.items()
        for s in (path.stat(),)
    }


def digest_of(folder: Path) -> str:
    """A hash of all files of a finished artifact, by its manifest: names and SHA-256.

    Artifacts with the same files have the same digest, whoever made them and when.
    """
    files = read_manifest(folder)["files"]
    return short_hash({name: _content(entry) for name, entry in files.items()})


def _content(entry: Mapping[str, Any]) -> Any:
    """What an entry of a manifest's list of files says about contents."""
    if "link" in entry:
        return {name: file["sha256"] for name, file in entry.get("files", {}).items()}
    return entry["sha256"]


def publish(store: Path, recipe: Recipe, folder: Path) -> Path:
    """Moves `folder`, manifest included, to the artifact's path in one step. Returns that path.

    It is on the disk before that. Those who share the store can read what the folder's owner can:
    libraries write some files for the owner only (mode 0600), whatever the umask says.
    """
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | (0o444 & ~umask))
    _sync_all(folder)
    path = artifact_path(store, recipe.reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        remove_artifact(store, recipe.reference)
    _move(folder, path)
    sync(path.parent)
    return path


def _sync_all(folder: Path) -> None:
    """Waits until a folder is on the disk: without that, a power failure leaves empty files."""
    for entry in (*folder.rglob("*"), folder):
        if not entry.is_symlink():
            sync(entry)


def _move(folder: Path, path: Path) -> None:
    """Renames a folder. From another file system it is copied, and the copy is renamed once it is on the
    disk."""
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    copy = _beside(path, path.name)
    shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed
    try:
        shutil.copytree(folder, copy, symlinks=True)
        _sync_all(copy)
        os.rename(copy, path)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    sync(path.parent)
    shutil.rmtree(folder)


def _beside(path: Path, name: str) -> Path:
    """A path on the file system of an artifact, where no artifact is looked for."""
    folder = path.parent / MOVING
    folder.mkdir(exist_ok=True)
    return folder / name


def remove_artifact(store: Path, reference: str) -> None:
    """Removes an artifact. It is renamed first, so that it is never seen half deleted."""
    path = artifact_path(store, reference)
    removed = _beside(path, f"removed-{path.name}")
    shutil.rmtree(removed, ignore_errors=True)  # of a process that was killed
    os.rename(path, removed)
    shutil.rmtree(removed)


def of_round(artifacts: Sequence[Path], rounds: int, number: int) -> list[Path]:
    """The artifacts of round `number`, which counts from 0. All `rounds` rounds have equally many."""
    per_round = len(artifacts) // rounds
    return list(artifacts[number * per_round : (number + 1) * per_round])
