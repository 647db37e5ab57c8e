"""Settings of stage policies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from expertchat.settings.lora import LoRA
from expertchat.settings.section import Section


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
