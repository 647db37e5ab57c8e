"""The store: finished artifacts in `<store>/<stage>/<id>/`, each with a manifest.

A job works in `<store>/work/<stage>/<id>/`, where it can resume after an interruption. The finished
artifact, manifest included, is moved to its final path by one atomic rename.
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
from expertchat.pipeline.recipes import Recipe
from expertchat.records import file_sha256

MANIFEST = "manifest.json"


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
    """The manifest in an artifact's folder. Raises UserError if it is missing or not JSON."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST}, so the artifact is not finished") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / MANIFEST}: not JSON ({error})") from None


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


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file below `folder`. A link is recorded by its target."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = {"link": os.readlink(path)}
        elif path.is_file() and name != MANIFEST:
            files[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    return files


def write_manifest(folder: Path, recipe: Recipe, run: dict[str, Any]) -> None:
    """Writes the manifest of `folder`: the recipe, its files, and `run` (versions, seconds etc.)."""
    manifest = {
        "recipe": {"id": recipe.id, **asdict(recipe)},
        **run,
        "files": list_files(folder),
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def publish(store: Path, recipe: Recipe, folder: Path) -> Path:
    """Moves `folder`, manifest included, to the artifact's path in one step. Returns that path.

    Those who share the store can read what the folder's owner can: libraries write some files for the
    owner only (mode 0600), whatever the umask says.
    """
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | (0o444 & ~umask))
    path = artifact_path(store, recipe.reference)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        remove_artifact(store, recipe.reference)
    os.rename(folder, path)
    return path


def remove_artifact(store: Path, reference: str) -> None:
    """Removes an artifact. It is renamed first, so that it is never seen half deleted."""
    removed = store / "work" / "removed" / f"{reference.replace('/', '-')}-{os.getpid()}"
    removed.parent.mkdir(parents=True, exist_ok=True)
    os.rename(artifact_path(store, reference), removed)
    shutil.rmtree(removed)


def find_damage(folder: Path) -> list[str]:
    """One sentence for each file that differs from the manifest of a finished artifact.

    Raises UserError if the manifest is missing or not JSON.
    """
    manifest = read_manifest(folder)
    damage = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if "link" in expected:
            if not path.exists():
                damage.append(f"{path}: the target of this link, {expected['link']}, does not exist")
        elif not path.is_file():
            damage.append(f"{path}: missing")
        elif path.stat().st_size != expected["size"]:
            damage.append(
                f"{path}: its size is {path.stat().st_size} bytes instead of {expected['size']}"
            )
        elif file_sha256(path) != expected["sha256"]:
            damage.append(f"{path}: its checksum differs from the one in the manifest")
    return damage


def of_round(artifacts: Sequence[Path], rounds: int, number: int) -> list[Path]:
    """The artifacts of round `number`, which counts from 0. All `rounds` rounds have equally many."""
    per_round = len(artifacts) // rounds
    return list(artifacts[number * per_round : (number + 1) * per_round])
