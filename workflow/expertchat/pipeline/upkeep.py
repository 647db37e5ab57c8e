"""Upkeep of a store: which artifacts it contains, and what is in it that no experiment uses."""

from __future__ import annotations

from pathlib import Path

from expertchat.pipeline.locks import lock_holder
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.store import manifest_path


def finished_artifacts(store: Path) -> list[str]:
    """The references "stage/id" of all finished artifacts, by stage."""
    paths = [path for stage in STAGES for path in sorted((store / stage).glob("*/manifest.json"))]
    return [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]


def linked_artifacts(store: Path) -> set[str]:
    """The references of all artifacts, finished or not, that some experiment in the store links to."""
    links = [path for path in (store / "experiments").rglob("*") if path.is_symlink()]
    return {"/".join(path.readlink().parts[-2:]) for path in links}


def unused_artifacts(store: Path) -> list[str]:
    """The references of finished artifacts that no experiment links to."""
    linked = linked_artifacts(store)
    return [reference for reference in finished_artifacts(store) if reference not in linked]


def unused_recipes(store: Path) -> list[Path]:
    """The recipe files of artifacts, finished or not, that no experiment links to."""
    linked = linked_artifacts(store)
    paths = sorted((store / "recipes").glob("*/*.json"))
    return [path for path in paths if f"{path.parent.name}/{path.stem}" not in linked]


def unused_work(store: Path) -> list[Path]:
    """The work folders that no job will resume, because no experiment links to their artifact, or
    because it is finished. Those that a living process holds are left out."""
    linked = linked_artifacts(store)
    found = []
    for path in sorted((store / "work").glob("*/*")):
        reference = f"{path.parent.name}/{path.name}"
        resumed = reference in linked and not manifest_path(store, reference).exists()
        if path.is_dir() and not resumed and lock_holder(path) is None:
            found.append(path)
    return found
