"""Settings of stage dialogues."""

from __future__ import annotations

from pydantic import Field, model_validator

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import Section


class Dialogues(Section):
    """Who talks how long, in which roles, and where candidate replies are drawn."""

    turns: int = Field(4, ge=2)
    """Turns a dialogue, of both speakers together."""
    max_tokens: int | None = Field(None, gt=0)
    """Tokens of all turns together after which a dialogue ends early; null: no limit."""
    seeds_per_topic: int = Field(2, gt=0)
    """Dialogues a topic and pair."""
    roles: list[str] = Field(["speaker", "speaker"], min_length=2, max_length=2)
    """What the opening speaker and the other are told: names of .jinja files among the prompts."""
    swap: bool = True
    """Whether both models open in turn, over topics and seeds; false: the first of the pair always
    opens, and so has the first role."""
    trim: bool = True
    """Whether a turn that was cut off by its token limit is trimmed to its last whole sentence; it is
    flagged either way."""
    candidate_turns: list[int] = [1, 2]
    """Turns, counted from 0, at which several candidate replies are drawn from one context."""
    candidates: int = Field(6, ge=2)
    """Candidate replies a context."""
    transcripts: str | None = None
    """File (.json or .jsonl) or folder of existing conversations, rated in place of new ones."""
    shards: int = Field(1, gt=0)
    """Jobs that a round's dialogues of a pair, and their ratings, are divided into. The dialogues are
    the same for any number."""
    decoding: Decoding = Decoding()
    """How turns and candidate replies are drawn."""

    @model_validator(mode="after")
    def _turns_exist(self) -> Dialogues:
        for turn in self.candidate_turns:
            if not 0 <= turn < self.turns:
                raise ValueError(f"candidate_turns: turn {turn}; a dialogue has 0 to {self.turns - 1}")
        return self
