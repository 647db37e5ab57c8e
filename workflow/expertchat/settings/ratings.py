"""Settings of stage ratings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import Section


class Ratings(Section):
    """How what was said is rated, and the controls that show how far to trust it."""

    rubric: str = "config/rubrics/expert.yaml"
    """The rubric: a YAML file of scale, categories, their weights and wordings."""
    min_valid_mass: float = Field(0.5, ge=0, le=1)
    """Probability that must fall on the scores; below it a rating is unusable and has no score."""
    orders: Literal["one", "both"] = "one"
    """`one`: speakers are called A and B in the order in which they speak; `both`: each item is
    rated a second time with the labels swapped, where that gives the judged speaker another label.
    Ratings are averaged over both."""
    repeats: int = Field(1, ge=1)
    """Times that each item is rated: first in the rubric's own words, then in its paraphrases.
    Ratings are averaged over them."""
    self_rating: bool = False
    """Each model rates its own words too, for comparison; nothing is trained on it."""
    third_party: list[str] = []
    """Models that rate all dialogues without taking part, for comparison; nothing is trained on it."""
    anchors: str | None = None
    """Fixed conversations (JSONL) that each rater rates too; column `standard` then holds scores less
    the rater's mean on them, over its standard deviation there. Null: none."""
    canary_share: float = Field(0.02, ge=0, le=1)
    """Share of items of which a copy with an attempt to sway the rater is rated too. Nothing is
    trained on it; it shows how far the rater can be swayed."""
    perplexity: bool = False
    """Also measure how likely the rated words are under the rater, in bits a byte."""
    tuned_raters: bool = False
    """From round 2 on, rate with the last round's adapters instead of the base models."""

    def asked(self) -> dict:
        """The keys that change what one rater is asked; files enter a recipe by their content."""
        outside = {"rubric", "anchors", "third_party", "tuned_raters"}
        return self.model_dump(exclude=outside)
