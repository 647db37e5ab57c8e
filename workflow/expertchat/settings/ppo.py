"""Settings of stage policies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from expertchat.settings.lora import LoRA
from expertchat.settings.section import FilePath, Section


class PPO(Section):
    """Policy optimization of a model's adapter in stage `policies`: by proximal policy optimization
    (PPO, Schulman et al. 2017), or by its kin without a value model.

    Example: {steps: 200, learning_rate: 2.0e-5, kl_coefficient: 0.05, kl_target: 6}
    """

    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """How much better a reply is than expected (its advantage). `ppo`: by a value model and generalized
    advantage estimation (Schulman et al. 2016). `rloo`: its return minus the mean return of the other
    replies to the same context (Kool et al. 2019, Ahmadian et al. 2024). `grpo`: its return minus the
    mean of all replies to the same context, divided by their standard deviation (Shao et al. 2024)."""
    replies_per_context: int = Field(1, gt=0, le=1024)
    """Number of replies to each context of a step; must divide batch_size. `rloo` and `grpo` need at
    least 2."""
    steps: int = Field(40, gt=0, le=1_000_000)
    """Number of PPO steps; each generates replies and learns from them."""
    batch_size: int = Field(64, ge=2, le=100_000)
    """Number of replies per step."""
    epochs: int = Field(2, gt=0, le=1000)
    """Number of passes over the replies of a step."""
    minibatch_size: int = Field(32, gt=0)
    """Number of replies per optimizer update; must divide batch_size."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Learning rate of Adam at the start; it decays linearly to 0."""
    max_gradient_norm: float | None = Field(1.0, gt=0)
    """Norm to which larger gradients of an update are scaled down, adapter and value head together;
    null: none are."""
    clip_range: float = Field(0.2, gt=0)
    """Clip range of the policy loss: the ratio of new to old probability is clipped to 1 - clip_range ..
    1 + clip_range."""
    value_clip_range: float = Field(0.2, gt=0)
    """Clip range of the value loss: how far a value estimate may move from the old one."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss, of `ppo`."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount factor per token."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalized advantage estimation (GAE)."""
    kl_coefficient: float = Field(0.05, ge=0)
    """Weight of the per-token KL penalty at the start; 0: no penalty."""
    kl_target: float = Field(6.0, gt=0)
    """Target of the adaptive KL penalty: KL from the reference model, in nats per reply."""
    kl_horizon: int = Field(2000, gt=0)
    """Horizon of the adaptive KL penalty, in replies: the larger, the more slowly its weight adapts."""
    kl_budget: float | None = Field(None, gt=0)
    """Largest KL from the reference model, in nats per reply. The run ends at the first step whose
    replies are above it, without learning from them; null: no limit."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy bonus: so many times the entropy of the policy, in nats per token, is added
    to what the update maximizes, against replies that become alike. 0: none."""
    length_penalty: float = Field(0.0, ge=0)
    """What is subtracted from a reply's score for each token beyond `length_target`."""
    length_target: int = Field(0, ge=0)
    """Number of tokens of a reply for which nothing is subtracted."""
    extra_reward: FilePath | None = None
    """A Python file of yours with a function `reward(prompt, reply)` of two texts that returns a number,
    which is added to the reward model's score; null: none. It runs in the job that trains."""
    extra_reward_weight: float = 1.0
    """Factor of the extra reward."""
    gradient_checkpointing: bool | None = None
    """Whether activations are computed again for the gradient instead of kept, which needs less memory
    and about a third more time; null: on a GPU only."""
    reward_scale: Literal["logits", "standard"] = "logits"
    """Scale of the rewards. `logits`: the reward model's score minus its mean on the reference model's
    replies, so that a reward model that learned little gives small rewards; `standard`: this difference
    divided by the standard deviation of those scores."""
    no_eos_reward: float = -2.0
    """Score of a reply that does not end within max_new_tokens, which replaces the reward model's score:
    in standard deviations from the mean score of the reference model's replies."""
    checkpoint_every: int = Field(10, gt=0)
    """Number of steps between checkpoints. An interrupted job resumes from the last one."""
    lora: LoRA = LoRA()
    """The policy's adapter. Its dropout is not used: the ratio of new to old probabilities would not be
    that of the policies."""

    @model_validator(mode="after")
    def _whole_groups(self) -> PPO:
        if self.batch_size % self.replies_per_context:
            raise ValueError(
                f"replies_per_context: {self.replies_per_context}; must divide batch_size, which is "
                f"{self.batch_size}"
            )
        if self.algorithm != "ppo" and self.replies_per_context < 2:
            raise ValueError(
                f"replies_per_context: {self.replies_per_context}; {self.algorithm} compares the "
                "replies to one context: give at least 2"
            )
        return self

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPO:
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size: {self.minibatch_size}; must divide batch_size, which is "
                f"{self.batch_size}"
            )
        return self
