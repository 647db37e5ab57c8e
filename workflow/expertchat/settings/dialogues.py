"""Settings of stage dialogues."""

from __future__ import annotations

from pydantic import Field, model_validator

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import FilePath, Section


class Dialogues(Section):
    """Length and roles of the dialogues, and the turns at which candidate replies are generated.

    Example: {turns: 6, roles: [interviewer, interviewee], swap: false, candidate_turns: [2, 3]}
    """

    turns: int = Field(4, ge=2, le=1000)
    """Number of turns per dialogue, of both speakers together."""
    max_tokens: int | None = Field(None, gt=0)
    """Total length of all turns, in tokens, after which a dialogue ends early; null: no limit."""
    seeds_per_topic: int = Field(2, gt=0, le=1000)
    """Number of dialogues per topic and pair."""
    roles: list[str] = Field(["speaker", "speaker"], min_length=2, max_length=2)
    """Roles of the opening speaker and of the other: names of .jinja files in the folder `prompts`."""
    swap: bool = True
    """Whether the two models take turns at opening, over topics and seeds; false: the first model of the
    pair always opens and has the first role."""
    trim: bool = True
    """Whether a turn that reached its token limit is trimmed to its last complete sentence; such turns
    are flagged in any case."""
    candidate_turns: list[int] = [1, 2]
    """Turns, counted from 0, at which several candidate replies to the same context are generated."""
    candidates: int = Field(6, ge=2, le=256)
    """Number of candidate replies per context."""
    transcripts: FilePath | None = None
    """File (.txt, .json or .jsonl) or folder of existing conversations that are rated instead of
    generated ones (docs/conversations.md has the formats); null: dialogues are generated."""
    shards: int = Field(1, gt=0, le=1000)
    """Number of jobs into which the dialogues of a round and pair, and their ratings, are divided. It
    does not change the dialogues."""
    decoding: Decoding = Decoding()
    """How turns and candidate replies are generated."""

    @model_validator(mode="after")
    def _turns_exist(self) -> Dialogues:
        for turn in self.candidate_turns:
            if not 0 <= turn < self.turns:
                raise ValueError(
                    f"candidate_turns: {self.candidate_turns}; there is no turn {turn}: the turns are "
                    f"0 to {self.turns - 1}"
                )
        return self
