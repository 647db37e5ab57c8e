"""Settings of stages preferences and judgements."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from expertchat.settings.data_files import HubFile, LocalFile, MadeUpFile
from expertchat.settings.section import Section

REWARD_MODEL = "reward_model"  # as a judge


class _PreferenceData(Section):
    format: Literal["hh-rlhf", "messages"]
    """Format of the records. `hh-rlhf`: {chosen, rejected}, texts with turns of Human and Assistant;
    `messages`: {chosen, rejected}, lists of {role, content}."""
    limit: int | None = Field(None, gt=0)
    """Largest number of pairs that are used, drawn at random; null: all."""


class FilePreferences(_PreferenceData, LocalFile):
    """Preferences in a local file.

    Example: {source: file, path: data/harmless-base-test.jsonl.gz, format: hh-rlhf}
    """


class HubPreferences(_PreferenceData, HubFile):
    """Preferences of the Hugging Face hub, downloaded by the Snakemake process.

    Example: {source: hub, repository: Anthropic/hh-rlhf, revision: main,
    file: harmless-base/test.jsonl.gz, format: hh-rlhf}
    """


class MadeUpPreferences(_PreferenceData, MadeUpFile):
    """Made-up preferences, which `shrink` puts in place of those of the hub.

    Example: {source: made-up, format: hh-rlhf}
    """


PreferenceData = Annotated[
    FilePreferences | HubPreferences | MadeUpPreferences, Field(discriminator="source")
]


class Preferences(Section):
    """Human preferences in place of dialogues and ratings: reward models learn from them, and PPO tunes
    the models on their conversations.

    Example: {data: [{source: file, path: data/hh.jsonl.gz, format: hh-rlhf}], judge_share: 0.3}
    """

    data: list[PreferenceData] = Field(min_length=1)
    """The data sets, which are mixed. Pairs that occur twice are used once."""
    models: list[str] = []
    """Names of the models that are tuned, each by itself; empty: all that have weights and judge
    nothing."""
    held_out_share: float = Field(0.2, gt=0, lt=1)
    """Share of the conversations that nothing is trained on. The reward model's accuracy is measured on
    them, and the tuned models reply to them."""
    judge_share: float = Field(0.3, ge=0, lt=1)
    """Share of the conversations that only the judge's reward model is trained on."""
    max_words: int | None = Field(None, gt=0)
    """Largest number of words of a conversation before the reply. A longer one loses its oldest
    messages, which is counted; null: any number."""

    @model_validator(mode="after")
    def _shares(self) -> Preferences:
        if self.held_out_share + self.judge_share >= 1:
            raise ValueError(
                f"judge_share: {self.judge_share}; with held_out_share {self.held_out_share} nothing is "
                "left to train on: the sum must be less than 1"
            )
        return self


class Judgements(Section):
    """Whose replies are better, those of a tuned model or of what it was before.

    Example: {judges: [reward_model, gpt]}
    """

    judges: list[str] = [REWARD_MODEL]
    """Who judges. `reward_model`: a reward model of preferences that no policy was trained on
    (`preferences.judge_share`); otherwise the name of a model, which is asked about each pair of replies
    in both orders."""
