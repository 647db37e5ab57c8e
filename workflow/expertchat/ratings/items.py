"""What is rated: whole dialogues and single replies, and the ways in which they are presented."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expertchat.ratings.artifact import DIALOGUE, PARTNER, REPLY, SELF, THIRD
from expertchat.seeds import seed_of


@dataclass(frozen=True)
class Item:
    """What is rated: the turns up to and including the judged speaker's words."""

    scope: str  # DIALOGUE or REPLY
    item_id: str
    topic_id: str
    topic: str
    split: str
    ratee: str  # the seat that is judged
    model: str  # the model in that seat
    relation: str  # of the rater to it: PARTNER, SELF or THIRD
    turns: Sequence[tuple[str, str]]  # (seat, text)

    @property
    def judged(self) -> str:
        """The judged words alone: the last reply, or all turns of the judged speaker."""
        texts = [text for seat, text in self.turns if seat == self.ratee]
        return texts[-1] if self.scope == REPLY else "\n\n".join(texts)


def relation_of(rater: str, ratee: str, models: Mapping[str, str]) -> str:
    """What `rater`, a model, is to the seat `ratee`; `models` gives the model in each seat.

    A model that talks with itself is its own partner: it rates one seat from the other.
    """
    if any(model == rater for seat, model in models.items() if seat != ratee):
        return PARTNER
    return SELF if models[ratee] == rater else THIRD


def items_for(
    rater: str,
    dialogues: Sequence[Mapping[str, Any]],
    candidates: Iterable[Mapping[str, Any]],
    self_rating: bool = False,
) -> Iterator[Item]:
    """Whole dialogues, then candidate replies: what others said, and what the rater said itself
    where `self_rating` is set."""
    by_id = {d["dialogue_id"]: d for d in dialogues}
    for dialogue in dialogues:
        said = [(t["speaker"], t["text"]) for t in dialogue["turns"]]
        for ratee in dict.fromkeys(seat for seat, _ in said):
            item = _item(DIALOGUE, dialogue["dialogue_id"], dialogue, rater, ratee, said)
            if item.relation != SELF or self_rating:
                yield item
    for candidate in candidates:
        dialogue = by_id[candidate["dialogue_id"]]
        before = [(t["speaker"], t["text"]) for t in dialogue["turns"][: candidate["turn"]]]
        ratee = candidate["speaker"]
        said = [*before, (ratee, candidate["text"])]
        item = _item(REPLY, candidate["candidate_id"], dialogue, rater, ratee, said)
        if item.relation != SELF or self_rating:
            yield item


def _item(scope: str, item_id: str, dialogue: Mapping[str, Any], rater: str, ratee: str, turns) -> Item:
    models = dialogue.get("models") or {seat: seat for seat in dialogue["speakers"]}
    return Item(
        scope,
        item_id,
        dialogue["topic_id"],
        dialogue["topic"],
        dialogue["split"],
        ratee,
        models[ratee],
        relation_of(rater, ratee, models),
        turns,
    )


def labels_of(turns: Sequence[tuple[str, str]], order: int) -> dict[str, str]:
    """Neutral labels by seat: A, B ... in the order of speaking; backwards for order 1."""
    seats = list(dict.fromkeys(seat for seat, _ in turns))
    letters = string.ascii_uppercase[: len(seats)]
    return dict(zip(seats, letters if order == 0 else reversed(letters), strict=True))


def fence_of(item: Item, seed: int) -> str:
    """A code of 8 hexadecimal digits that stands in none of the item's texts.

    What a model writes cannot foretell it, so it cannot forge the end of the data.
    """
    for attempt in range(1_000):
        code = f"{seed_of(seed, 'fence', item.scope, item.item_id, item.ratee, attempt):015x}"[-8:]
        if not any(code in text for text in (item.topic, *(text for _, text in item.turns))):
            return code
    raise ValueError(f"{item.item_id}: every code that was drawn stands in its text")
