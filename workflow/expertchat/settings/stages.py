"""The sections of the stages, from topics to mmlu, in the order in which data meets them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.settings.lora import LoRA
from expertchat.settings.sampling import Sampling
from expertchat.settings.section import Section


class Topics(Section):
    """What is talked about: written by the models, taking turns, subject by subject."""

    subjects: list[str] = Field(min_length=1)
    """Subjects that seed the topics."""
    held_out_subjects: int = Field(2, ge=1)
    """How many subjects, the last ones of the list, are kept from all training."""
    per_subject: int = Field(8, gt=0)
    """Topics kept a subject."""
    tries_per_topic: int = Field(8, gt=0)
    """Most topics asked for, a topic kept; too few good ones in that many stop the job."""
    max_similarity: float = Field(0.7, gt=0, le=1)
    """ROUGE-L F-measure with another topic above which a topic counts as a near-duplicate."""
    sampling: Sampling = Sampling(max_new_tokens=48)
    """How topics are drawn."""


class Dialogues(Section):
    """Who talks how long, and where candidate replies are drawn."""

    turns: int = Field(4, ge=2)
    """Turns a dialogue, of both speakers together."""
    seeds_per_topic: int = Field(2, gt=0)
    """Dialogues a topic; the opening speaker alternates over topics and seeds."""
    candidate_turns: list[int] = [1, 2]
    """Turns, counted from 0, at which several candidate replies are drawn from one context."""
    candidates: int = Field(6, ge=2)
    """Candidate replies a context."""
    sampling: Sampling = Sampling()
    """How turns and candidate replies are drawn."""

    @model_validator(mode="after")
    def _turns_exist(self) -> Dialogues:
        for turn in self.candidate_turns:
            if not 0 <= turn < self.turns:
                raise ValueError(f"candidate_turns: turn {turn}; a dialogue has 0 to {self.turns - 1}")
        return self


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


class Rewards(Section):
    """The reward model: a LoRA adapter and a score head on the model that it will train."""

    min_margin: float = Field(0.5, ge=0)
    """Difference of two overall ratings below which a pair is a tie and dropped, in rating points."""
    pairs_per_context: int = Field(4, gt=0)
    """Most pairs kept a context, those with the widest margins first."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Share of the training topics kept back, to tell how far the reward model can be trusted."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak step size of AdamW."""
    epochs: float = Field(1, gt=0)
    """Passes over the pairs."""
    batch_size: int = Field(16, gt=0)
    """Pairs a step on one device."""
    max_length: int = Field(1024, gt=0)
    """Longest context and reply, in tokens; a longer pair is dropped and counted."""
    lora: LoRA = LoRA()
    """The adapter."""


class PPO(Section):
    """Proximal policy optimisation of the adapter (stage `policies`; Schulman et al. 2017)."""

    steps: int = Field(40, gt=0)
    """Rounds of drawing replies and learning from them."""
    batch_size: int = Field(64, gt=0)
    """Replies a step."""
    epochs: int = Field(2, gt=0)
    """Passes over a step's replies."""
    minibatch_size: int = Field(32, gt=0)
    """Replies an optimiser step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Adam's step size at the start; it falls linearly to 0."""
    clip_range: float = Field(0.2, gt=0)
    """The ratio of new to old probability is clipped to 1 plus or minus this."""
    value_clip_range: float = Field(0.2, gt=0)
    """A value moves at most this far from its old estimate in the clipped loss."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount a token."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation."""
    kl_coefficient: float = Field(0.05, ge=0)
    """Weight of the KL penalty a token at the start."""
    kl_target: float = Field(6.0, gt=0)
    """KL to the reference model that the penalty's weight is steered to, in nats a reply."""
    kl_horizon: int = Field(2000, gt=0)
    """Replies over which the weight of the KL penalty adapts."""
    reward_scale: Literal["logits", "standard"] = "logits"
    """`logits`: the reward model's scores less their mean on the reference's replies, so that a reward
    model that learned little rewards little; `standard`: divided by their standard deviation too."""
    no_eos_reward: float = -2.0
    """Score of a reply that did not end within max_new_tokens, in place of the reward model's: standard
    deviations from the mean of its scores of the reference's replies."""
    checkpoint_every: int = Field(10, gt=0)
    """Steps between checkpoints."""
    lora: LoRA = LoRA()
    """The adapter."""

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPO:
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size: {self.minibatch_size}; must divide batch_size, {self.batch_size}"
            )
        return self


class Replies(Section):
    """Replies of base and tuned models to the same held-out contexts."""

    per_context: int = Field(4, gt=0)
    """Replies a context and model."""


class DemoQuestions(Section):
    """Questions on the demo world's facts."""

    source: Literal["demo"]
    """Chooses this kind of questions."""
    seed: int = 0
    """Seed of wording, order and wrong answers."""


class FolderQuestions(Section):
    """Questions in MMLU's layout: {dev,val,test}/<subject>_<split>.csv without header."""

    source: Literal["folder"]
    """Chooses this kind of questions."""
    path: str
    """The folder that holds dev/, val/ and test/."""
    subjects: list[str] = []
    """Subjects to ask; empty: all."""


class HubQuestions(Section):
    """Questions of a hub's data set in the schema of cais/mmlu, fetched where snakemake runs."""

    source: Literal["hub"]
    """Chooses this kind of questions."""
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """The data set, as owner/name."""
    revision: str
    """Branch, tag or commit; a commit makes the experiment repeatable."""
    subjects: list[str] = []
    """Subjects to ask; empty: all."""


Questions = Annotated[DemoQuestions | FolderQuestions | HubQuestions, Field(discriminator="source")]


class MMLUAsking(Section):
    """How the multiple-choice questions are put (Hendrycks et al. 2021)."""

    formulation: Literal["letter", "cloze"] = "letter"
    """`letter`: the probabilities of A to D after the choices; `cloze`: those of the answers' texts."""
    shots: int = Field(5, ge=0, le=5)
    """Solved questions of the subject before each question."""
    limit: int | None = Field(None, gt=0)
    """Most questions a subject; null: all."""


class MMLU(MMLUAsking):
    """Multiple-choice questions before and after tuning."""

    questions: Questions
    """Where the questions come from."""
