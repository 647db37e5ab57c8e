"""Low-rank adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import Section


class LoRA(Section):
    """Low-rank adapter of a frozen model (LoRA, Hu et al. 2021).

    Example: {rank: 8, alpha: 16, target_modules: [q_proj, v_proj]}
    """

    rank: int = Field(16, gt=0)
    """Rank of each weight matrix's update."""
    alpha: float = Field(32, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the adapter's inputs during training."""
    target_modules: list[str] | Literal["attention", "all"] = "attention"
    """The linear layers that get an adapter: those of attention, all but the output layer, or a list of
    names, of which the last parts are enough."""
    layers: int | None = Field(None, gt=0)
    """Number of transformer layers that get an adapter, counted from the last one; null: all layers.
    Training needs less time and memory with fewer, as no gradient passes through the layers below."""
