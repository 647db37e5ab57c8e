"""Stage dialogues: two models talk about each topic, and candidate replies are drawn on the way.

Dialogues are stored speaker-neutral. Candidate replies, several from one context, are what the
reward model learns from: they differ in nothing but themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expertchat import chat, prompts
from expertchat.engine.interface import Engine, Request
from expertchat.progress import bar, rate
from expertchat.records import read_records, write_records
from expertchat.seeds import seed_of
from expertchat.settings.dialogues import Dialogues

DIALOGUES, CANDIDATES = "dialogues.jsonl", "candidates.jsonl"


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


def begin_dialogues(
    topics: Sequence[dict[str, Any]], pair: Sequence[str], seeds_per_topic: int
) -> list[dict[str, Any]]:
    """Dialogues without turns: every topic, `seeds_per_topic` times, each model opening every second."""
    dialogues = []
    for number, topic in enumerate(topics):
        for seed in range(seeds_per_topic):
            swap = (number + seed) % 2
            dialogues.append(
                {
                    "dialogue_id": f"{topic['topic_id']}/s{seed}",
                    **{key: topic[key] for key in ("topic_id", "topic", "subject", "split")},
                    "speakers": [pair[swap], pair[1 - swap]],
                    "turns": [],
                }
            )
    return dialogues


def context_messages(context: Context, texts: Mapping[str, str]) -> list[chat.Message]:
    """The dialogue up to the context's turn, as its speaker sees it.

    `texts` holds the templates `speaker` and `opening`.
    """
    dialogue = context.dialogue
    values = {"topic": dialogue["topic"], "subject": dialogue["subject"]}
    turns = [chat.Turn(t["speaker"], t["text"]) for t in dialogue["turns"][: context.turn]]
    brief = prompts.fill(texts["speaker"], **values)
    opening = prompts.fill(texts["opening"], **values)
    return chat.conversation(turns, context.speaker, brief, opening)


def contexts_of(
    dialogues: Sequence[dict[str, Any]], speaker: str, split: str, turns: Sequence[int]
) -> list[Context]:
    """The contexts of a split in which `speaker` has one of the numbered turns."""
    found = [Context(d, turn) for d in dialogues if d["split"] == split for turn in turns]
    return [context for context in found if context.speaker == speaker]


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
        Request(context_messages(context, texts), seed, context.dialogue["dialogue_id"])
        for context, seed in zip(contexts, seeds, strict=True)
    ]
    return [asdict(reply) for reply in engine.generate(asked, settings.decoding, on_batch)]


def hold_dialogues(
    engines: Mapping[str, Engine],
    topics: Sequence[dict[str, Any]],
    settings: Dialogues,
    texts: Mapping[str, str],
    seed: Any,
    checkpoints: Path,
    out: Path,
) -> None:
    """Writes dialogues.jsonl and candidates.jsonl; goes on from the last finished turn."""
    dialogues, candidates = _resume(engines, topics, settings, checkpoints)
    done = len(dialogues[0]["turns"])
    steps = settings.turns + len(set(settings.candidate_turns)) - done
    with bar(steps, "dialogues", "turns") as progress:

        def report(replies: int, tokens: int, seconds: float) -> None:
            progress.set_postfix_str(rate(tokens, seconds, "tokens"))

        for turn in range(done, settings.turns):
            for name, engine in engines.items():
                here = [c for d in dialogues if (c := Context(d, turn)).speaker == name]
                if turn in settings.candidate_turns:
                    candidates += _candidates(engine, here, texts, settings, seed, report)
                seeds = [seed_of(seed, "turn", c.id) for c in here]
                replies = draw_replies(engine, here, texts, settings, seeds, report)
                for context, reply in zip(here, replies, strict=True):
                    context.dialogue["turns"].append({"speaker": name, **reply})
            progress.update(1 + (turn in settings.candidate_turns))
            write_records(checkpoints / f"{turn}.{CANDIDATES}", candidates)
            write_records(checkpoints / f"{turn}.{DIALOGUES}", dialogues)
    write_records(out / DIALOGUES, dialogues)
    write_records(out / CANDIDATES, candidates)


def _resume(engines, topics, settings: Dialogues, checkpoints: Path):
    """The dialogues and candidates of the last finished turn, or their beginnings."""
    for turn in reversed(range(settings.turns)):
        if (checkpoints / f"{turn}.{DIALOGUES}").exists():
            return (
                read_records(checkpoints / f"{turn}.{DIALOGUES}"),
                read_records(checkpoints / f"{turn}.{CANDIDATES}"),
            )
    return begin_dialogues(topics, list(engines), settings.seeds_per_topic), []


def _candidates(engine, contexts, texts, settings: Dialogues, seed: Any, report):
    """`candidates` replies to each context, drawn apart from the turn that is spoken."""
    pairs = [(c, k) for c in contexts for k in range(settings.candidates)]
    seeds = [seed_of(seed, "candidate", c.id, k) for c, k in pairs]
    replies = draw_replies(engine, [c for c, _ in pairs], texts, settings, seeds, report)
    return [
        {
            "candidate_id": f"{context.id}/c{k}",
            "context_id": context.id,
            "dialogue_id": context.dialogue["dialogue_id"],
            **{key: context.dialogue[key] for key in ("topic_id", "split")},
            "turn": context.turn,
            "speaker": context.speaker,
            **reply,
        }
        for (context, k), reply in zip(pairs, replies, strict=True)
    ]
