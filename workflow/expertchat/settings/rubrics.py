"""The rubric: what raters judge, on which scale and in which words. It is a YAML file of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from expertchat.errors import UserError
from expertchat.settings.messages import sentences
from expertchat.settings.section import Section
from expertchat.settings.yaml_files import read_yaml


class Wording(Section):
    """One wording of a category.

    Example: {name: command of the subject, description: knows the field from the inside}
    """

    name: str
    """Name of the category, as the rater reads it."""
    description: str
    """What the category means, in a few words, as the rater reads it."""
    low: str = ""
    """What deserves the worst score; empty: the prompt does not say."""
    high: str = ""
    """What deserves the best score; empty: the prompt does not say."""


class Category(Wording):
    """One quality that raters judge, in a question of its own.

    Example: {name: coherence, description: answers what was said and holds together, weight: 2}
    """

    weight: float = Field(1.0, ge=0)
    """Weight in the overall rating, relative to the other categories; 0: rated, but not counted."""
    paraphrases: list[Wording] = []
    """Other wordings of the category. With `ratings.repeats: 3`, each item is rated in the category's
    own words and in its first two paraphrases."""

    def wording(self, repeat: int) -> Wording:
        """The words of a repeat: 0 is the category itself, 1 its first paraphrase."""
        return self if repeat == 0 else self.paraphrases[repeat - 1]


class Rubric(Section):
    """A rubric file (`ratings.rubric`): the scale and the categories. Each category is one question.

    Example: {low: 1, high: 5, categories: [{name: wit, description: makes the reader laugh}]}
    """

    low: int = Field(0, ge=0)
    """Worst score."""
    high: int = Field(9, gt=0, le=1000)
    """Best score. Scores that take several tokens, such as 10, are supported."""
    categories: list[Category] = Field(min_length=1)
    """The categories. Their names must differ."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Rubric:
        if self.high <= self.low:
            raise ValueError(f"high: {self.high}; must be greater than low, which is {self.low}")
        if not any(category.weight for category in self.categories):
            raise ValueError("categories: all weights are 0; at least one must be greater than 0")
        names = [category.name for category in self.categories]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"categories: the name {name!r} is used more than once")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weight by category."""
        return {category.name: category.weight for category in self.categories}

    def recipe_settings(self, repeats: int) -> dict:
        """What raters read in `repeats` repeats, for recipes: no weights and no unused paraphrases."""
        rubric = self.model_dump()
        for category in rubric["categories"]:
            del category["weight"]
            category["paraphrases"] = category["paraphrases"][: repeats - 1]
        return rubric


def read_rubric(path: Path, repeats: int = 1) -> Rubric:
    """Reads a rubric file. Each category must have wordings for `repeats` repeats.

    Raises UserError with the file and the key if the file is missing or invalid.
    """
    data = read_yaml(path, "ratings.rubric must name a YAML file with the keys low, high and categories")
    try:
        rubric = Rubric.model_validate(data)
    except ValidationError as error:
        raise UserError("; ".join(f"{path}: {fault}" for fault in sentences(error, Rubric))) from None
    for number, category in enumerate(rubric.categories):
        wordings = 1 + len(category.paraphrases)
        if wordings < repeats:
            raise UserError(
                f"{path}: categories.{number}.paraphrases: {category.name!r} has {wordings} of the "
                f"{repeats} wordings that ratings.repeats needs; add {repeats - wordings} paraphrases"
            )
    return rubric
