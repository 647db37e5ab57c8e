"""Settings of stage ratings."""

from __future__ import annotations

from pydantic import Field, model_validator

from expertchat.settings.section import Section


class Category(Section):
    """One thing that a rater judges."""

    name: str
    """The word that the rater sees."""
    description: str
    """What it means, in a few words that the rater sees."""
    weight: float = Field(1.0, ge=0)
    """Share in the overall rating, relative to the other categories."""


CATEGORIES = [
    Category(name="expertise", description="shows the knowledge of a practitioner"),
    Category(name="human-likeness", description="reads as written by a person, not by an AI"),
    Category(name="factual accuracy", description="states what is true"),
    Category(name="coherence", description="answers what was said and holds together"),
    Category(name="persuasiveness", description="convinces the reader"),
]


class Ratings(Section):
    """How each model rates the other."""

    low: int = Field(0, ge=0)
    """Worst score."""
    high: int = Field(9, gt=0)
    """Best score."""
    categories: list[Category] = Field(CATEGORIES, min_length=1)
    """What is rated, each category by a question of its own."""
    min_valid_mass: float = Field(0.5, ge=0, le=1)
    """Probability that must fall on the scores; below it a rating is marked unusable."""
    tuned_raters: bool = False
    """From round 2 on, rate with the last round's adapters instead of the base models."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Ratings:
        if self.high <= self.low:
            raise ValueError(f"high: {self.high}; must be above low, {self.low}")
        if not any(category.weight for category in self.categories):
            raise ValueError("categories: all weights are 0; at least one must be positive")
        names = [category.name for category in self.categories]
        if len(set(names)) < len(names):
            raise ValueError(f"categories: a name stands twice in {names}")
        return self
