"""How replies are generated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import Section


class Decoding(Section):
    """How the next token is chosen, and when a reply ends.

    Example: {temperature: 0.9, top_p: 0.95, max_new_tokens: 256, grace_tokens: 48}
    """

    strategy: Literal["sampling", "greedy", "contrastive"] = "sampling"
    """`sampling`: draw from the distribution; `greedy`: take the most likely token; `contrastive`:
    contrastive search (Su et al. 2022), which also penalizes similarity to the preceding tokens."""
    temperature: float = Field(1.0, ge=0.01, le=100)
    """Sampling temperature: the logits are divided by it."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling: sample from the smallest set of tokens whose probabilities sum to at least this;
    1: off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Sample from tokens whose probability is at least this fraction of the most likely token's; 0:
    off."""
    top_k: int | None = Field(None, gt=0)
    """Sample from this number of most likely tokens; null: all. In contrastive search, the number of
    candidate tokens; null: 4."""
    penalty_alpha: float = Field(0.6, ge=0, le=1)
    """Weight of the similarity penalty in contrastive search."""
    repetition_penalty: float = Field(1.0, ge=1)
    """Penalty on tokens that the prompt or the reply already contains (Keskar et al. 2019): their
    positive logits are divided by it, negative ones multiplied; 1: off."""
    stop: list[str] = []
    """Strings that end a reply; they are removed from its end."""
    max_new_tokens: int = Field(256, gt=0, le=1_000_000)
    """Maximum length of a reply, in tokens."""
    grace_tokens: int = Field(0, ge=0, le=1_000_000)
    """Number of tokens beyond max_new_tokens in which a reply may finish its sentence."""

    def plain_sampling(self) -> Decoding:
        """Sampling from the model's own distribution at this temperature and length, as PPO needs it."""
        return Decoding(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
