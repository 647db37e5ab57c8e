"""Settings of stage replies."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.section import Section


class Replies(Section):
    """Replies of the base and the tuned model to the same held-out contexts, for the comparison.

    Example: {per_context: 2}
    """

    per_context: int = Field(4, gt=0, le=1000)
    """Number of replies per context and model."""
