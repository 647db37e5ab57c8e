"""Upkeep of a store: which artifacts it contains, and which of them no experiment uses."""

from __future__ import annotations

from pathlib import Path

from expertchat.pipeline.plan import STAGES


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
