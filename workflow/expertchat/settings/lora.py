"""Low-rank adapters."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.section import Section


class LoRA(Section):
    """Low-rank adaptation of a frozen model (Hu et al. 2021)."""

    rank: int = Field(16, gt=0)
    """Rank of the update of each weight matrix."""
    alpha: float = Field(32, gt=0)
    """Scale of the update, divided by the rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped in training."""
    target_modules: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    """Names of the linear layers that are adapted."""
