"""Settings of stage topics."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import Section


class Topics(Section):
    """What is talked about: written by the models, taking turns, subject by subject."""

    subjects: list[str] = Field(min_length=1)
    """Subjects that seed the topics."""
    held_out_subjects: int = Field(2, ge=1)
    """How many subjects, the last ones of the list, are kept from all training."""
    per_subject: int = Field(8, gt=0)
    """Topics kept a subject."""
    tries_per_topic: int = Field(8, gt=0)
    """Most topics asked for, a topic kept; too few good ones in that many stop the job."""
    max_similarity: float = Field(0.7, gt=0, le=1)
    """ROUGE-L F-measure with another topic above which a topic counts as a near-duplicate."""
    decoding: Decoding = Decoding(max_new_tokens=48)
    """How topics are drawn."""
