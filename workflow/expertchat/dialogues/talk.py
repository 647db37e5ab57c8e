"""Stage dialogues: two models discuss each topic. Candidate replies are drawn in some turns.

Dialogues are stored speaker-neutral: each seat has a model and a role. Candidates are several replies
drawn from the same context. The reward model learns from pairs of them, which have everything else in
common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import progress_bar, rate
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES, TOPIC_KEYS
from expertchat.dialogues.contexts import Context, draw_replies, opened
from expertchat.dialogues.turn_flags import flags_of
from expertchat.engine.interface import Engine, names_by_engine
from expertchat.records import read_records, write_records
from expertchat.seeds import seed_of
from expertchat.sentences import trim_to_sentence
from expertchat.settings.dialogues import Dialogues


def seat_names(pair: Sequence[str]) -> list[str]:
    """The names of a pair's two seats: those of the models, numbered if a model talks with itself."""
    return list(pair) if pair[0] != pair[1] else [f"{name}-{i}" for i, name in enumerate(pair, 1)]


def create_dialogues(
    topics: Sequence[dict[str, Any]], pair: Sequence[str], settings: Dialogues
) -> list[dict[str, Any]]:
    """Dialogues without turns: `seeds_per_topic` per topic.

    The two seats take turns in opening a dialogue; without `swap`, the first seat always opens. The
    opening seat has the first role.
    """
    dialogues, names = [], seat_names(pair)
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
    """Part number `shard` of `shards` contiguous parts, so that both models open dialogues in each."""
    first, end = (len(dialogues) * part // shards for part in (shard, shard + 1))
    return dialogues[first:end]


def run_dialogues(
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
    """Writes dialogues.jsonl and candidates.jsonl. Resumes after the last saved reply of a turn.

    `dialogues` come from `create_dialogues`, `texts` are the prompt templates by name, and `seed` can be
    a tuple. If models take turns in opening, each of them speaks in half of the dialogues in every turn.
    Two models with the same engine do so in one call. With `side_by_side`, for models that share no
    device, both generate at the same time.
    """
    speakers = names_by_engine(engines)
    saved = Checkpoints(checkpoints / "turns")
    dialogues, candidates, done = _resume(dialogues, saved)
    left = range(done, settings.turns)
    per_dialogue = len(left) + settings.candidates * len(
        set(settings.candidate_turns).intersection(left)
    )
    with (
        progress_bar(per_dialogue * len(dialogues), "dialogues", "replies") as progress,
        engine_threads(engines if side_by_side else {}) as pool,
    ):

        def report(replies: int, tokens: int, seconds: float) -> None:
            progress.set_postfix_str(rate(tokens, seconds, "tokens"), refresh=False)
            progress.update(replies)

        def speak(engine: Engine, names: Sequence[str], turn: int) -> list[dict[str, Any]]:
            contexts = [Context(d, turn) for d in dialogues if has_tokens_left(d, settings)]
            own = [context for name in names for context in contexts if context.model == name]
            pieces = partial(saved.pieces, numbered(turn + 1), "+".join(names))
            return _take_turn(engine, own, texts, settings, seed, report, pieces)

        for turn in left:
            if side_by_side:
                futures = [pool.submit(speak, *speaker, turn) for speaker in speakers]
                drawn = [future.result() for future in futures]
            else:
                drawn = [speak(*speaker, turn) for speaker in speakers]
            candidates += chain.from_iterable(drawn)
            with saved.writing(numbered(turn + 1)) as folder:
                write_records(folder / CANDIDATES, candidates)
                write_records(folder / DIALOGUES, dialogues)
    write_records(out / DIALOGUES, dialogues)
    write_records(out / CANDIDATES, candidates)


@contextmanager
def engine_threads(engines: Mapping[str, Engine]) -> Iterator[ThreadPoolExecutor]:
    """A pool with one thread per engine.

    If an error or an interruption occurs, the engines are closed first, so that the pool does not wait
    for the end of a turn.
    """
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        try:
            yield pool
        except BaseException:
            for engine, _ in names_by_engine(engines):
                engine.close()
            raise


def has_tokens_left(dialogue: dict[str, Any], settings: Dialogues) -> bool:
    """Whether the dialogue has fewer than `max_tokens` tokens, so that it gets a further turn."""
    used = sum(turn["tokens"] for turn in dialogue["turns"])
    return settings.max_tokens is None or used < settings.max_tokens


def _take_turn(engine, contexts, texts, settings: Dialogues, seed: Any, report, pieces):
    """Adds a turn to the dialogue of each context. Returns the candidates drawn from these contexts.

    `pieces(name)`: checkpoints for the replies of a turn that is not finished.
    """
    candidates = []
    asked = [opened(context, texts) for context in contexts]
    if contexts and contexts[0].turn in settings.candidate_turns:
        saved = pieces("candidates")
        candidates = _candidates(engine, contexts, asked, settings, seed, report, saved)
    seeds = [seed_of(seed, "turn", c.id) for c in contexts]
    replies = draw_replies(engine, asked, settings.decoding, seeds, report, pieces("turns"))
    for context, reply in zip(contexts, replies, strict=True):
        earlier = [turn["text"] for turn in context.dialogue["turns"]]
        turn = {"speaker": context.speaker, **make_turn(reply, settings, earlier)}
        context.dialogue["turns"].append(turn)
    return candidates


def make_turn(reply: dict[str, Any], settings: Dialogues, earlier: Sequence[str]) -> dict[str, Any]:
    """The turn {text, tokens, finish_reason, cut, flags} of a reply, without its speaker.

    With `trim`, a reply that was cut off by the token limit is trimmed to its last sentence; `cut` is
    the removed text. `earlier` are the texts of the turns before it.
    """
    turn = {**reply, "cut": "", "flags": flags_of(reply["text"], reply["finish_reason"], earlier)}
    if settings.trim and reply["finish_reason"] == "length":
        trimmed = trim_to_sentence(reply["text"])
        turn |= {"text": trimmed, "cut": reply["text"][len(trimmed) :]}
    return turn


def _resume(dialogues, saved: Checkpoints):
    """(dialogues, candidates, number of finished turns) of the latest checkpoint, or of the start."""
    folder = saved.latest()
    if folder is None:
        return list(dialogues), [], 0
    return read_records(folder / DIALOGUES), read_records(folder / CANDIDATES), int(folder.name)


def _candidates(engine, contexts, asked, settings: Dialogues, seed: Any, report, saved: Checkpoints):
    """Candidate replies, `settings.candidates` per context. The dialogue's turn is drawn separately."""
    pairs = [(c, k) for c in contexts for k in range(settings.candidates)]
    seeds = [seed_of(seed, "candidate", c.id, k) for c, k in pairs]
    every = [context for context in asked for _ in range(settings.candidates)]
    replies = draw_replies(engine, every, settings.decoding, seeds, report, saved)
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
