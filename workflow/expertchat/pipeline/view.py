"""The artifacts of an experiment by their readable names in results/experiments/<name>/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.pipeline.store import artifact_path, manifest_path, read_manifest

TALKING = ("dialogues", "ratings", "reliability")  # their first round is by the base models
WITHOUT_ROUND = (
    *("models", "instructions", "sft", "preferences", "questions", "topics", "oracle", "report"),
    "speeds",
)


@dataclass(frozen=True)
class Artifact:
    """One artifact of an experiment; `name` is its readable name within its stage and round."""

    stage: str
    round: int | None
    name: str
    reference: str
    store: Path
    view: str = ""  # its readable path

    @property
    def folder(self) -> Path:
        """Where its files are, once it is finished."""
        return artifact_path(self.store, self.reference)

    @property
    def finished(self) -> bool:
        """Whether it has been published."""
        return manifest_path(self.store, self.reference).exists()

    @property
    def model(self) -> str:
        """The model, or the rater, that it belongs to; empty if there is no single one."""
        owned = (
            *("models", "sft", "anchors", "ratings", "rewards", "policies", "replies", "judgements"),
            *("answers", "speeds"),
        )
        return self.name.split("/")[0] if self.stage in owned else ""

    @property
    def variant(self) -> str:
        """The way to load the model that it belongs to (stage speeds)."""
        return self.name.split("/")[1]

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest: recipe, versions, seconds and checksums. UserError if it is not finished."""
        return read_manifest(self.folder)


def place_of(view: str, reference: str, store: Path) -> Artifact:
    """The artifact with the readable name `view`, such as "round-1/ratings/llama"."""
    round, stage, name = _parts(view)
    if round is None and stage not in WITHOUT_ROUND:
        round = 1 if stage in TALKING else 0
    return Artifact(stage, round, name, reference, store, view)


def label_of(views: Sequence[str]) -> str:
    """A description of the artifact that has these readable paths, for display.

    There are several if models with the same weights share it: "answers of ada/test and eva/test".
    """
    round, stage, _ = _parts(views[0])
    names = [name for _, _, name in map(_parts, views) if name]
    of = ["of " + " and ".join(names)] if names else []
    return " ".join([stage, *of, *([f"in round {round}"] if round else [])])


def _parts(view: str) -> tuple[int | None, str, str]:
    """(round, stage, name) of a readable path. Round and name can be missing."""
    parts = view.split("/")
    round = int(parts.pop(0).removeprefix("round-")) if parts[0].startswith("round-") else None
    return round, parts[0], "/".join(parts[1:])
