"""Settings of stage replies."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.section import Section


class Replies(Section):
    """Replies of base and tuned models to the same held-out contexts."""

    per_context: int = Field(4, gt=0)
    """Replies a context and model."""
