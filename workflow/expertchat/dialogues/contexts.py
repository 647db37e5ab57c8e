"""Contexts: the points in a dialogue at which a model is to reply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from expertchat import chat, prompts
from expertchat.checkpoints import Checkpoints
from expertchat.contexts import OpenContext
from expertchat.engine.interface import Engine, OnReplies, Request
from expertchat.engine.pieces import draw_saved
from expertchat.settings.decoding import Decoding


@dataclass(frozen=True)
class Context:
    """The point in a dialogue at which `speaker` is to write turn number `turn`, counted from 0."""

    dialogue: dict[str, Any]
    turn: int

    @property
    def id(self) -> str:
        """A name that is unique among all contexts of an experiment's round."""
        return f"{self.dialogue['dialogue_id']}/t{self.turn}"

    @property
    def speaker(self) -> str:
        """The seat that speaks in this turn. Seats alternate."""
        speakers = self.dialogue["speakers"]
        return speakers[self.turn % len(speakers)]

    @property
    def model(self) -> str:
        """The model in the speaker's seat."""
        return self.dialogue["models"][self.speaker]


def context_messages(context: Context, texts: Mapping[str, str]) -> list[chat.Message]:
    """The dialogue before the context's turn as messages for its speaker.

    `texts` are the prompt templates by name: those of the roles, and `opening`.
    """
    dialogue = context.dialogue
    values = {key: dialogue.get(key, "") for key in prompts.VALUES["opening"]}
    turns = [chat.Turn(t["speaker"], t["text"]) for t in dialogue["turns"][: context.turn]]
    brief = prompts.fill(texts[dialogue["roles"][context.speaker]], **values)
    opening = prompts.fill(texts["opening"], **values)
    return chat.conversation(turns, context.speaker, brief, opening)


def contexts_of(
    dialogues: Iterable[dict[str, Any]], model: str, split: str, turns: Sequence[int]
) -> list[Context]:
    """The contexts of a split in which `model` speaks, in the given `turns`."""
    contexts = [
        Context(d, turn)
        for d in dialogues
        if d["split"] == split
        for turn in turns
        if turn < len(d["turns"])
    ]
    return [context for context in contexts if context.model == model]


def opened(context: Context, texts: Mapping[str, str]) -> OpenContext:
    """The context with its messages.

    Its session is the dialogue and its speaker, so that an engine can reuse the cached keys and values
    of earlier turns.
    """
    return OpenContext(
        context.id,
        context.dialogue["topic_id"],
        context_messages(context, texts),
        context.speaker,
        f"{context.dialogue['dialogue_id']}/{context.speaker}",
    )


def draw_replies(
    engine: Engine,
    contexts: Sequence[OpenContext],
    decoding: Decoding,
    seeds: Sequence[int],
    on_batch: OnReplies,
    saved: Checkpoints,
) -> list[dict[str, Any]]:
    """One reply {text, tokens, finish_reason} per context, drawn with the context's seed and `saved`."""
    requests = [
        Request(context.messages, seed, context.session)
        for context, seed in zip(contexts, seeds, strict=True)
    ]
    replies = draw_saved(engine, requests, decoding, saved, on_batch)
    return [asdict(reply) for reply in replies]
