"""Stage dialogues: two models talk about each topic, and candidate replies are drawn on the way.

Dialogues are stored speaker-neutral: seats talk, each filled by a model and playing a role. Candidate
replies, several from one context, are what the reward model learns from: they differ in nothing but
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expertchat.console import progress_bar, rate
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES, TOPIC_KEYS
from expertchat.dialogues.contexts import Context, draw_replies
from expertchat.dialogues.turn_flags import flags_of
from expertchat.engine.interface import Engine
from expertchat.records import read_records, write_records
from expertchat.seeds import seed_of
from expertchat.sentences import trim_to_sentence
from expertchat.settings.dialogues import Dialogues


def seats(pair: Sequence[str]) -> list[str]:
    """Names of a pair's two seats: the models', numbered where a model talks with itself."""
    return list(pair) if pair[0] != pair[1] else [f"{name}-{i}" for i, name in enumerate(pair, 1)]


def begin_dialogues(
    topics: Sequence[dict[str, Any]], pair: Sequence[str], settings: Dialogues
) -> list[dict[str, Any]]:
    """Dialogues without turns: every topic, `seeds_per_topic` times.

    Seats open in turn, or the first always does where `swap` is off; who opens has the first role.
    """
    dialogues, names = [], seats(pair)
    models = dict(zip(names, pair, strict=True))
    for number, topic in enumerate(topics):
        for seed in range(settings.seeds_per_topic):
            swap = (number + seed) % 2 if settings.swap else 0
            speakers = [names[swap], names[1 - swap]]
            dialogues.append(
                {
                    "dialogue_id": f"{topic['topic_id']}/{'-'.join(pair)}/s{seed}",
                    **{key: topic.get(key, "") for key in TOPIC_KEYS},
                    "speakers": speakers,
                    "models": models,
                    "roles": dict(zip(speakers, settings.roles, strict=True)),
                    "turns": [],
                }
            )
    return dialogues


def shard_of(dialogues: Sequence[Any], shard: int, shards: int) -> Sequence[Any]:
    """One of `shards` parts, of neighbours: both models open in each of them."""
    first, end = (len(dialogues) * part // shards for part in (shard, shard + 1))
    return dialogues[first:end]


def hold_dialogues(
    engines: Mapping[str, Engine],
    dialogues: Sequence[dict[str, Any]],
    settings: Dialogues,
    texts: Mapping[str, str],
    seed: Any,
    checkpoints: Path,
    out: Path,
    *,
    side_by_side: bool = False,
) -> None:
    """Writes dialogues.jsonl and candidates.jsonl; goes on from the last finished turn.

    `dialogues` are those begun. Where models open in turn, each has its half to speak in at every turn:
    `side_by_side`, where they share no device, both speak at once.
    """
    dialogues, candidates, done = _resume(dialogues, settings, checkpoints)
    steps = settings.turns + len(set(settings.candidate_turns)) - done
    with (
        progress_bar(steps, "dialogues", "turns") as progress,
        speakers_pool(engines if side_by_side else {}) as pool,
    ):

        def report(replies: int, tokens: int, seconds: float) -> None:
            progress.set_postfix_str(rate(tokens, seconds, "tokens"))

        def speak(name: str, turn: int) -> list[dict[str, Any]]:
            here = [
                c for d in dialogues if goes_on(d, settings) and (c := Context(d, turn)).model == name
            ]
            return _take_turn(engines[name], here, texts, settings, seed, report)

        for turn in range(done, settings.turns):
            jobs = [(speak, name, turn) for name in engines]
            found = [pool.submit(*job) for job in jobs] if side_by_side else None
            for i, (function, *arguments) in enumerate(jobs):
                candidates += found[i].result() if found else function(*arguments)
            progress.update(1 + (turn in settings.candidate_turns))
            write_records(checkpoints / f"{turn}.{CANDIDATES}", candidates)
            write_records(checkpoints / f"{turn}.{DIALOGUES}", dialogues)
    write_records(out / DIALOGUES, dialogues)
    write_records(out / CANDIDATES, candidates)


@contextmanager
def speakers_pool(engines: Mapping[str, Engine]) -> Iterator[ThreadPoolExecutor]:
    """A thread a model. Where the job is stopped, the engines are closed first, so that no thread
    waits for the end of a turn."""
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        try:
            yield pool
        except BaseException:
            for engine in engines.values():
                engine.close()
            raise


def goes_on(dialogue: dict[str, Any], settings: Dialogues) -> bool:
    """Whether the dialogue has tokens left to be spoken."""
    spoken = sum(turn["tokens"] for turn in dialogue["turns"])
    return settings.max_tokens is None or spoken < settings.max_tokens


def _take_turn(engine, contexts, texts, settings: Dialogues, seed: Any, report):
    """Adds a turn to each context's dialogue; returns the candidates drawn in its place."""
    found = []
    if contexts and contexts[0].turn in settings.candidate_turns:
        found = _candidates(engine, contexts, texts, settings, seed, report)
    seeds = [seed_of(seed, "turn", c.id) for c in contexts]
    replies = draw_replies(engine, contexts, texts, settings, seeds, report)
    for context, reply in zip(contexts, replies, strict=True):
        earlier = [turn["text"] for turn in context.dialogue["turns"]]
        turn = {"speaker": context.speaker, **as_spoken(reply, settings, earlier)}
        context.dialogue["turns"].append(turn)
    return found


def as_spoken(reply: dict[str, Any], settings: Dialogues, earlier: Sequence[str]) -> dict[str, Any]:
    """A reply as a turn: flagged, and trimmed to its last sentence where its token limit cut it off.

    `cut` keeps what was trimmed away.
    """
    turn = {**reply, "cut": "", "flags": flags_of(reply["text"], reply["finish_reason"], earlier)}
    if settings.trim and reply["finish_reason"] == "length":
        kept = trim_to_sentence(reply["text"])
        turn |= {"text": kept, "cut": reply["text"][len(kept) :]}
    return turn


def _resume(dialogues, settings: Dialogues, checkpoints: Path):
    """(dialogues, candidates, turns done) of the last finished turn, or of the beginning."""
    for turn in reversed(range(settings.turns)):
        if (checkpoints / f"{turn}.{DIALOGUES}").exists():
            return (
                read_records(checkpoints / f"{turn}.{DIALOGUES}"),
                read_records(checkpoints / f"{turn}.{CANDIDATES}"),
                turn + 1,
            )
    return list(dialogues), [], 0


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
            "model": context.model,
            **reply,
        }
        for (context, k), reply in zip(pairs, replies, strict=True)
    ]
