"""Settings of stage ratings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import FilePath, Section


class Ratings(Section):
    """How dialogues and candidate replies are rated, and the checks of the ratings' reliability.

    Example: {rubric: config/rubrics/expert.yaml, orders: both, repeats: 3, self_rating: true}
    """

    rubric: FilePath = "config/rubrics/expert.yaml"
    """The rubric: a YAML file with the scale and the categories, their weights and wordings."""
    min_valid_mass: float = Field(0.5, ge=0, le=1)
    """Smallest total probability of the valid scores; a rating with less is unusable and left out. It
    applies when ratings are read, so another value asks no model again. The jobs of stages anchors and
    ratings stop if most of the first ratings would be unusable; 0 turns this off."""
    orders: Literal["one", "both"] = "one"
    """`one`: the speakers are labeled A and B in the order in which they speak; `both`: each item is
    rated a second time with swapped labels, unless the rated speaker's label would stay the same.
    Ratings are averaged over both orders."""
    repeats: int = Field(1, ge=1, le=100)
    """Number of times that each item is rated: first in the rubric's own words, then in its paraphrases.
    Ratings are averaged over the repeats."""
    self_rating: bool = False
    """Whether each model also rates its own words, for comparison; these ratings are not used in
    training."""
    third_party: list[str] = []
    """Names of models that rate all dialogues but take no part in them, for comparison; these ratings
    are not used in training."""
    anchors: FilePath | None = "config/anchors/expert.jsonl"
    """JSONL file of fixed conversations that every rater rates before there are dialogues, good and bad
    ones on each topic. A rater that does not rate the good ones higher is reported as blind. Column
    `standard` of the ratings has scores minus the rater's mean on the anchors, divided by its standard
    deviation there. Null: no anchors."""
    canary_share: float = Field(0.02, ge=0, le=1)
    """Fraction of the items of which a copy with an attempt to manipulate the rater (a canary) is rated
    too. Canaries are not used in training; they show how easily the rater is manipulated."""
    perplexity: bool = False
    """Whether to also measure how likely the rated words are under the rater, in bits per byte."""
    tuned_raters: bool = False
    """Whether models rate with the adapters of the previous round, from round 2 on; false: the base
    models rate in every round."""

    def recipe_settings(self) -> dict:
        """The keys that change one rater's ratings, for recipes, which have files by their contents."""
        outside = {"rubric", "anchors", "third_party", "tuned_raters", "min_valid_mass"}
        return self.model_dump(exclude=outside)
