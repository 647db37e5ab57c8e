"""How tokens are drawn."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.section import Section


class Sampling(Section):
    """Draws the next token from the model's distribution."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draws among the likeliest tokens that hold this probability together."""
    max_new_tokens: int = Field(256, gt=0)
    """Longest reply, in tokens."""
