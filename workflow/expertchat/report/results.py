"""What the sections read: the summary, the settings and the artifacts' tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.pipeline.store import of_round
from expertchat.ratings.artifact import OVERALL_COLUMNS, read_ratings
from expertchat.records import read_all
from expertchat.report.blocks import ModelName
from expertchat.report.plots import COLORS
from expertchat.report.summary_mmlu import read_scores


@dataclass(frozen=True)
class Results:
    """An experiment's results; lists of artifacts come in the plan's order: by round, then by model."""

    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    artifacts: Mapping[str, Any]

    @property
    def models(self) -> list[str]:
        """The models' names, in the order that decides their colours."""
        return list(self.summary["models"])

    @property
    def rounds(self) -> int:
        """Rounds played."""
        return self.summary["rounds"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The summary's rows: one a round and model."""
        return self.summary["rows"]

    @property
    def last_rows(self) -> list[dict[str, Any]]:
        """The rows of the last round, in the order of the models."""
        return [row for row in self.rows if row["round"] == self.rounds]

    @property
    def checked(self) -> bool:
        """Whether a known truth was there to check against."""
        return self.artifacts["oracle"] is not None

    def stage_settings(self, stage: str) -> Mapping[str, Any]:
        """A section of the experiment's settings."""
        return self.settings["experiment"][stage]

    def name(self, model: str) -> ModelName:
        """The model's name with its colour."""
        return ModelName(model, self.models.index(model) % len(COLORS))

    def legend(self, kind: str = "dot") -> list[tuple[str, str]]:
        """The models with their marks, for a legend."""
        return [(f"{kind}-{place % len(COLORS)}", name) for place, name in enumerate(self.models)]

    def scores(self, number: int) -> dict[str, Any]:
        """scores.json of stage mmlu after `number` rounds (0: base)."""
        return read_scores(self.artifacts["mmlu"][number])

    def of_round(self, stage: str, number: int) -> list[Path]:
        """One artifact a model: the stage's folders in its place `number`, from 0."""
        count = len(self.models)
        return self.artifacts[stage][number * count : (number + 1) * count]

    @property
    def scale(self) -> list[int]:
        """The worst and the best score."""
        return self.settings["scale"]

    def ratings(self, number: int, **equal: str) -> pd.DataFrame:
        """What partners rated after `number` rounds (0: the base models' dialogues), in the rows in
        which each named column has the given value."""
        folders = of_round(self.artifacts["ratings"], self.rounds + 1, number)
        return read_ratings(folders, [*OVERALL_COLUMNS, "entropy", "valid_mass"], **equal)

    def dialogues(self, number: int) -> list[dict[str, Any]]:
        """All dialogues after `number` rounds (0: the base models')."""
        folders = of_round(self.artifacts["dialogues"], self.rounds + 1, number)
        return list(read_all(folders, DIALOGUES))

    def candidates(self, number: int) -> list[dict[str, Any]]:
        """All candidate replies after `number` rounds."""
        folders = of_round(self.artifacts["dialogues"], self.rounds + 1, number)
        return list(read_all(folders, CANDIDATES))

    def metrics(self, number: int, i: int) -> dict[str, Any]:
        """metrics.json of a reward model."""
        path = self.of_round("rewards", number)[i] / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def table(self, stage: str, number: int, i: int, file: str) -> pd.DataFrame:
        """A parquet table of the model `i` in the stage's place `number`."""
        return pd.read_parquet(self.of_round(stage, number)[i] / file)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items at even distances, so that nobody picked them; all where they are few."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / max(1, count - 1))] for k in range(count)]
