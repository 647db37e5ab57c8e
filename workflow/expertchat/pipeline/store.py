"""The store: finished artifacts under `<store>/<stage>/<id>/`, each with a manifest.

An artifact appears in one atomic rename, its manifest inside. Whatever is not finished lives under
`<store>/work/<stage>/<id>/`, where it can resume.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.pipeline.fingerprints import file_sha256
from expertchat.pipeline.recipes import Recipe

MANIFEST = "manifest.json"


def artifact_path(store: Path, reference: str) -> Path:
    """The folder of the finished artifact "stage/id"."""
    return store / reference


def manifest_path(store: Path, reference: str) -> Path:
    """The one declared output of a job."""
    return artifact_path(store, reference) / MANIFEST


def recipe_path(store: Path, reference: str) -> Path:
    """The file that tells the job what to make.

    Jobs get its path and not its text: Linux refuses an argument of more than 128 KiB.
    """
    return store / "recipes" / f"{reference}.json"


def work_path(store: Path, reference: str) -> Path:
    """Where the artifact is made, and where an interrupted job left its checkpoints."""
    return store / "work" / reference


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact's folder; UserError where it is missing or not JSON."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST}, so the artifact is not finished") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / MANIFEST}: not JSON ({error})") from None


def write_recipe(store: Path, recipe: Recipe) -> None:
    """Writes the recipe's file in one step, where it is not there already."""
    path, text = recipe_path(store, recipe.reference), recipe.to_json()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file below `folder`; a link is recorded by its target."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = {"link": os.readlink(path)}
        elif path.is_file() and name != MANIFEST:
            files[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    return files


def write_manifest(folder: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Writes the manifest of `folder`: the recipe, its files, and `facts` (versions, seconds ...)."""
    manifest = {
        "recipe": {"id": recipe.id, **asdict(recipe)},
        **facts,
        "files": list_files(folder),
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def publish(store: Path, recipe: Recipe, made: Path) -> Path:
    """Moves the folder `made`, manifest inside, to its place in one step. Returns the place."""
    place = artifact_path(store, recipe.reference)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        set_aside(store, recipe.reference)
    os.rename(made, place)
    return place


def set_aside(store: Path, reference: str) -> None:
    """Removes an artifact so that no moment shows half of it: first renamed, then deleted."""
    place = artifact_path(store, reference)
    grave = store / "work" / "removed" / f"{reference.replace('/', '-')}-{os.getpid()}"
    grave.parent.mkdir(parents=True, exist_ok=True)
    os.rename(place, grave)
    shutil.rmtree(grave)


def faults(folder: Path) -> list[str]:
    """What is wrong with a finished artifact, one sentence a fault; empty where it is whole."""
    manifest = read_manifest(folder)
    found = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if "link" in expected:
            if not path.exists():
                found.append(f"{path}: the link's target {expected['link']} is gone")
        elif not path.is_file():
            found.append(f"{path}: missing")
        elif path.stat().st_size != expected["size"]:
            found.append(f"{path}: {path.stat().st_size} bytes, {expected['size']} when made")
        elif file_sha256(path) != expected["sha256"]:
            found.append(f"{path}: its checksum differs from the manifest's")
    return found


def of_round(artifacts: Sequence[Path], rounds: int, number: int) -> list[Path]:
    """The artifacts of one of `rounds` rounds, each of which has as many; `number` counts from 0."""
    each = len(artifacts) // rounds
    return list(artifacts[number * each : (number + 1) * each])
