"""Settings of stage rewards."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.lora import LoRA
from expertchat.settings.section import Section


class Rewards(Section):
    """The reward model: a LoRA adapter and a score head on the model that PPO then trains.

    Example: {batch_size: 4, max_length: 2048, lora: {rank: 8}}
    """

    min_margin: float = Field(0.5, ge=0)
    """Smallest difference between two overall ratings, in rating points; a pair of replies with a
    smaller difference is a tie and is dropped."""
    pairs_per_context: int = Field(4, gt=0)
    """Maximum number of pairs per context; those with the largest differences are used."""
    validation_share: float = Field(0.2, gt=0, lt=1)
    """Fraction of the training topics that the reward model is validated on and not trained on. Its
    scores are multiplied by a factor from 0 to 1, the reward scale, estimated on these topics."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    epochs: float = Field(1, gt=0)
    """Number of passes over the pairs."""
    batch_size: int = Field(16, gt=0)
    """Number of pairs per optimizer step and device."""
    max_length: int = Field(1024, gt=0)
    """Maximum length of a context with its reply, in tokens; longer pairs are dropped and counted."""
    lora: LoRA = LoRA()
    """The reward model's adapter."""
