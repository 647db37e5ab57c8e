"""The rubric: what is rated, on which scale and in which words. A YAML file of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from expertchat.errors import UserError
from expertchat.settings.messages import sentences
from expertchat.settings.section import Section
from expertchat.settings.yaml_files import read_yaml


class Wording(Section):
    """One way to put a category to a rater."""

    name: str
    """The word that the rater sees."""
    description: str
    """What it means, in a few words that the rater sees."""
    low: str = ""
    """What deserves the worst score."""
    high: str = ""
    """What deserves the best score."""


class Category(Wording):
    """One thing that a rater judges."""

    weight: float = Field(1.0, ge=0)
    """Share in the overall rating, relative to the other categories."""
    paraphrases: list[Wording] = []
    """The same in other words, for repeated ratings: the first repeat takes the first of them."""

    def wording(self, repeat: int) -> Wording:
        """The words of a repeat: 0 has the category's own."""
        return self if repeat == 0 else self.paraphrases[repeat - 1]


class Rubric(Section):
    """A rubric file: the scale and the categories, each rated by a question of its own."""

    low: int = Field(0, ge=0)
    """Worst score."""
    high: int = Field(9, gt=0)
    """Best score; scores of several tokens, such as 10, are handled."""
    categories: list[Category] = Field(min_length=1)
    """What is rated."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Rubric:
        if self.high <= self.low:
            raise ValueError(f"high: {self.high}; must be above low, {self.low}")
        if not any(category.weight for category in self.categories):
            raise ValueError("categories: all weights are 0; at least one must be positive")
        names = [category.name for category in self.categories]
        if len(set(names)) < len(names):
            raise ValueError(f"categories: a name stands twice in {names}")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight by category."""
        return {category.name: category.weight for category in self.categories}

    def asked(self, repeats: int) -> dict:
        """What raters are asked in so many repeats, as plain values: no weights, no spare words."""
        found = self.model_dump()
        for category in found["categories"]:
            del category["weight"]
            category["paraphrases"] = category["paraphrases"][: repeats - 1]
        return found


def read_rubric(path: Path, repeats: int = 1) -> Rubric:
    """The rubric in a file. Raises UserError naming file and key where it is not right.

    Each category must have words for `repeats` repeats: its own and repeats - 1 paraphrases.
    """
    data = read_yaml(path, "ratings.rubric must name a rubric, which has low, high and categories")
    try:
        rubric = Rubric.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(f"{path}: {said}" for said in sentences(error, Rubric))) from None
    for number, category in enumerate(rubric.categories):
        words = 1 + len(category.paraphrases)
        if words < repeats:
            raise UserError(
                f"{path}: categories.{number}.paraphrases: {category.name!r} has words for {words} "
                f"of the {repeats} repeats that ratings.repeats asks for; add {repeats - words}"
            )
    return rubric
