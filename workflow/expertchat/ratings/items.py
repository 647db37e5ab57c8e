"""The items to rate (whole dialogues and single replies), and the labels and codes in their prompts."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expertchat.prompts import unused_code
from expertchat.ratings.artifact import DIALOGUE, PARTNER, REPLY, SELF, THIRD


@dataclass(frozen=True)
class Item:
    """One thing to rate: a speaker in a whole dialogue, or that speaker's reply in a context."""

    scope: str  # DIALOGUE or REPLY
    item_id: str  # the dialogue's id, or the candidate's
    topic_id: str
    topic: str
    split: str
    ratee: str  # the judged seat
    model: str  # the model in that seat
    relation: str  # of the rater to the ratee: PARTNER, SELF or THIRD
    turns: Sequence[tuple[str, str]]  # (seat, text), up to and including the judged text
    context_id: str | None = None  # of a reply: the same for all candidates of one context

    @property
    def judged(self) -> str:
        """The judged text: the last reply, or all turns of the judged speaker."""
        texts = [text for seat, text in self.turns if seat == self.ratee]
        return texts[-1] if self.scope == REPLY else "\n\n".join(texts)


def relation_of(rater: str, ratee: str, models: Mapping[str, str]) -> str:
    """The relation of `rater`, a model, to the seat `ratee`. `models` maps seats to models.

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
    """The items that `rater` has to rate: whole dialogues, then candidate replies.

    What the rater itself said is included only with `self_rating`.
    """
    by_id = {d["dialogue_id"]: d for d in dialogues}
    for dialogue in dialogues:
        turns = [(t["speaker"], t["text"]) for t in dialogue["turns"]]
        for ratee in dict.fromkeys(seat for seat, _ in turns):
            item = _item(DIALOGUE, dialogue["dialogue_id"], dialogue, rater, ratee, turns)
            if item.relation != SELF or self_rating:
                yield item
    for candidate in candidates:
        dialogue = by_id[candidate["dialogue_id"]]
        before = [(t["speaker"], t["text"]) for t in dialogue["turns"][: candidate["turn"]]]
        ratee = candidate["speaker"]
        turns = [*before, (ratee, candidate["text"])]
        context_id = f"{dialogue['dialogue_id']}/t{candidate['turn']}"
        item = _item(REPLY, candidate["candidate_id"], dialogue, rater, ratee, turns, context_id)
        if item.relation != SELF or self_rating:
            yield item


def _item(
    scope: str,
    item_id: str,
    dialogue: Mapping[str, Any],
    rater: str,
    ratee: str,
    turns: Sequence[tuple[str, str]],
    context_id: str | None = None,
) -> Item:
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
        context_id,
    )


def labels_of(turns: Sequence[tuple[str, str]], order: int) -> dict[str, str]:
    """{seat: neutral label}: A, B, ... in the order of speaking, reversed for order 1."""
    seats = list(dict.fromkeys(seat for seat, _ in turns))
    letters = string.ascii_uppercase[: len(seats)]
    return dict(zip(seats, letters if order == 0 else reversed(letters), strict=True))


def fence_of(item: Item, seed: int) -> str:
    """A code that occurs in none of the item's texts, with which the prompt marks where they begin and
    end.

    The candidate replies of one context share a
    code, so that their prompts share the context, which an engine then reads once.
    """
    texts = [item.topic, *(text for _, text in item.turns)]
    return unused_code(texts, seed, "fence", item.scope, item.context_id or item.item_id, item.ratee)
