"""Settings of stage dialogues."""

from __future__ import annotations

from pydantic import Field, model_validator

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import Section


class Dialogues(Section):
    """Who talks how long, and where candidate replies are drawn."""

    turns: int = Field(4, ge=2)
    """Turns a dialogue, of both speakers together."""
    seeds_per_topic: int = Field(2, gt=0)
    """Dialogues a topic; the opening speaker alternates over topics and seeds."""
    candidate_turns: list[int] = [1, 2]
    """Turns, counted from 0, at which several candidate replies are drawn from one context."""
    candidates: int = Field(6, ge=2)
    """Candidate replies a context."""
    decoding: Decoding = Decoding()
    """How turns and candidate replies are drawn."""

    @model_validator(mode="after")
    def _turns_exist(self) -> Dialogues:
        for turn in self.candidate_turns:
            if not 0 <= turn < self.turns:
                raise ValueError(f"candidate_turns: turn {turn}; a dialogue has 0 to {self.turns - 1}")
        return self
