"""How replies are drawn from a model's distribution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import Section


class Decoding(Section):
    """How the next tokens are chosen, and when a reply ends."""

    strategy: Literal["sampling", "greedy", "contrastive"] = "sampling"
    """`sampling` draws; `greedy` takes the likeliest token; `contrastive` weighs likelihood against
    likeness to what was said (contrastive search, Su et al. 2022)."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits before sampling."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Samples among the likeliest tokens that hold this probability together."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Samples among tokens at least this likely relative to the likeliest one."""
    top_k: int | None = Field(None, gt=0)
    """Samples among this many likeliest tokens, null: all; contrastive search weighs this many,
    null: 4."""
    penalty_alpha: float = Field(0.6, ge=0, le=1)
    """Weight of the likeness to earlier tokens in contrastive search."""
    repetition_penalty: float = Field(1.0, ge=1)
    """Divides positive logits, and multiplies negative ones, of tokens that stand in the prompt or the
    reply (Keskar et al. 2019); 1: off."""
    stop: list[str] = []
    """Texts that end a reply; they are cut off."""
    max_new_tokens: int = Field(256, gt=0)
    """Longest reply, in tokens."""
    grace_tokens: int = Field(0, ge=0)
    """Tokens beyond max_new_tokens in which a reply may still come to the end of its sentence."""

    def untouched(self) -> Decoding:
        """Sampling from the model's own distribution at this temperature and length, as PPO needs."""
        return Decoding(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
