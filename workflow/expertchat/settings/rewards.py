"""Settings of stage rewards."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.lora import LoRA
from expertchat.settings.section import Section


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
