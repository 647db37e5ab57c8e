"""The whole experiment: all sections of the settings."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

from pydantic import Field

from expertchat.settings.dialogues import Dialogues
from expertchat.settings.mmlu import MMLU
from expertchat.settings.models import Model
from expertchat.settings.ppo import PPO
from expertchat.settings.ratings import Ratings
from expertchat.settings.replies import Replies
from expertchat.settings.rewards import Rewards
from expertchat.settings.section import Section
from expertchat.settings.topics import Topics


class World(Section):
    """The demo world, whose truth is known."""

    seed: int = 0
    """Seed of its facts."""


class Experiment(Section):
    """One experiment: models, who talks with whom, each stage's settings, and the number of rounds."""

    name: str = Field(pattern=r"^[\w][\w.-]*$")
    """Name of the experiment: its results are linked under results/experiments/<name>/."""
    seed: int = 0
    """Seed of all that is drawn; the same seed gives the same experiment."""
    rounds: int = Field(1, ge=0)
    """Times the loop is played, each from the adapters of the last; 0: the models talk and rate, and
    nothing is tuned."""
    control: Literal["none", "shuffled"] = "none"
    """`shuffled`: ratings are shuffled within each context before reward training, so that nothing
    can be learned from them; what still moves is not due to the ratings."""
    threads: int = Field(1, ge=1)
    """CPU threads of each job that runs a model."""
    prompts: str = "config/prompts"
    """Folder of the prompts: topic, opening, rating and the roles, as .jinja files."""
    models: dict[str, Model] = Field(min_length=1)
    """The models, by name."""
    pairs: list[tuple[str, str]] | Literal["round_robin"] = []
    """Who talks with whom: pairs of model names; a model may talk with itself. `round_robin`: each with
    each other. Empty: nobody talks, and all models rate transcripts or answer mmlu's questions."""
    world: World | None = None
    """The demo world, for demo models and questions and for the check against its truth."""
    topics: Topics | None = None
    """Stage topics. Needed where models talk."""
    dialogues: Dialogues = Dialogues()
    """Stage dialogues."""
    ratings: Ratings = Ratings()
    """Stage ratings."""
    rewards: Rewards = Rewards()
    """Stage rewards."""
    ppo: PPO = PPO()
    """Stage policies."""
    replies: Replies = Replies()
    """Stage replies."""
    mmlu: MMLU | None = None
    """Stages questions, answers, mmlu, fits and mixture; null: no questions are asked."""

    @property
    def talking_pairs(self) -> list[tuple[str, str]]:
        """The pairs, by name."""
        return list(combinations(self.models, 2)) if self.pairs == "round_robin" else list(self.pairs)

    @property
    def talkers(self) -> list[str]:
        """The models that talk, and are tuned, in the order in which the pairs name them."""
        return list(dict.fromkeys(name for pair in self.talking_pairs for name in pair))
