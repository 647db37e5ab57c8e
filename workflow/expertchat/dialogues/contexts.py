"""Contexts: the points of a dialogue at which a model replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expertchat import chat, prompts
from expertchat.engine.interface import Engine, Request
from expertchat.settings.dialogues import Dialogues


@dataclass(frozen=True)
class Context:
    """A point in a dialogue where `speaker` is to reply: turn number `turn`, from 0."""

    dialogue: dict[str, Any]
    turn: int

    @property
    def id(self) -> str:
        return f"{self.dialogue['dialogue_id']}/t{self.turn}"

    @property
    def speaker(self) -> str:
        speakers = self.dialogue["speakers"]
        return speakers[self.turn % len(speakers)]

    @property
    def model(self) -> str:
        """The model that has the speaker's seat."""
        return self.dialogue["models"][self.speaker]


def context_messages(context: Context, texts: Mapping[str, str]) -> list[chat.Message]:
    """The dialogue up to the context's turn, as its speaker sees it.

    `texts` holds the roles' templates and `opening`.
    """
    dialogue = context.dialogue
    values = {key: dialogue.get(key, "") for key in ("topic", "subject", "audience", "kind")}
    turns = [chat.Turn(t["speaker"], t["text"]) for t in dialogue["turns"][: context.turn]]
    brief = prompts.fill(texts[dialogue["roles"][context.speaker]], **values)
    opening = prompts.fill(texts["opening"], **values)
    return chat.conversation(turns, context.speaker, brief, opening)


def contexts_of(
    dialogues: Iterable[dict[str, Any]], model: str, split: str, turns: Sequence[int]
) -> list[Context]:
    """The contexts of a split in which `model` has one of the numbered turns."""
    found = [
        Context(d, turn)
        for d in dialogues
        if d["split"] == split
        for turn in turns
        if turn < len(d["turns"])
    ]
    return [context for context in found if context.model == model]


def draw_replies(
    engine: Engine,
    contexts: Sequence[Context],
    texts: Mapping[str, str],
    settings: Dialogues,
    seeds: Sequence[int],
    on_batch,
) -> list[dict[str, Any]]:
    """One reply {text, tokens, finish_reason} to each context, drawn with its seed."""
    asked = [
        Request(
            context_messages(context, texts),
            seed,
            f"{context.dialogue['dialogue_id']}/{context.speaker}",
        )
        for context, seed in zip(contexts, seeds, strict=True)
    ]
    return [asdict(reply) for reply in engine.generate(asked, settings.decoding, on_batch)]
