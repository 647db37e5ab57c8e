"""What the sections read: the experiment's results, with its summary and the models' colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.mmlu.artifact import SCORES
from expertchat.ratings.artifact import OVERALL_COLUMNS
from expertchat.report.blocks import ModelName
from expertchat.report.plots import COLORS
from expertchat.results import ExperimentResults


@dataclass(frozen=True)
class Results:
    """The results of an experiment and its summary.

    Methods with `number` read what the models did after that many rounds of tuning (0: base models).
    """

    summary: Mapping[str, Any]
    run: ExperimentResults

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of stage report."""
        return self.run.settings

    @property
    def models(self) -> list[str]:
        """The models' names, in the order that decides their colours."""
        return list(self.summary["models"])

    @property
    def rounds(self) -> int:
        """Rounds of tuning."""
        return self.summary["rounds"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the summary: one per round and model."""
        return self.summary["rows"]

    @property
    def last_rows(self) -> list[dict[str, Any]]:
        """The rows of the last round, in the order of the models."""
        return [row for row in self.rows if row["round"] == self.rounds]

    @property
    def checked(self) -> bool:
        """Whether there was an oracle to compare with."""
        return self.run.has("oracle")

    def stage_settings(self, stage: str) -> Mapping[str, Any]:
        """A section of the experiment's settings."""
        return self.settings["experiment"][stage]

    def name(self, model: str) -> ModelName:
        """The model's name with its colour."""
        return ModelName(model, self.models.index(model) % len(COLORS))

    def legend(self, kind: str = "dot") -> list[tuple[str, str]]:
        """The models with their marks, for a legend."""
        return [(f"{kind}-{i % len(COLORS)}", name) for i, name in enumerate(self.models)]

    @property
    def scale(self) -> list[int]:
        """The lowest and the highest score of the rubric."""
        return self.settings["scale"]

    def scores(self, number: int) -> dict[str, Any]:
        """scores.json of stage mmlu."""
        return self.run.json("mmlu", SCORES, number)

    def ratings(self, number: int, scope: str | None = None, split: str | None = None) -> pd.DataFrame:
        """The partners' ratings of a scope and split, None for all."""
        columns = [*OVERALL_COLUMNS, "entropy", "valid_mass"]
        return self.run.ratings(number + 1, scope=scope, split=split, columns=columns)

    def dialogues(self, number: int) -> list[dict[str, Any]]:
        """All dialogues."""
        return self.run.records("dialogues", DIALOGUES, number + 1)

    def candidates(self, number: int) -> list[dict[str, Any]]:
        """All candidate replies."""
        return self.run.records("dialogues", CANDIDATES, number + 1)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items at even distances, so that they are not hand-picked; all if they are few."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / max(1, count - 1))] for k in range(count)]
