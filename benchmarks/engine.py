"""Compares the engine's speed with plain transformers on the demo pair: dialogues and ratings.

Dialogues: a pair talks for several turns, by the engine with its caches in batches of dialogues; by
transformers' generate one dialogue at a time, reading the complete prompt each turn; and by generate on
the same batches. Ratings: all categories of a dialogue asked together, and each in a separate prompt.
Speeds count tokens up to the end of each reply. Every baseline is transformers with its default cache,
on the same number of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from expertchat import chat
from expertchat.demo.world import build_world, halves
from expertchat.dialogues.contexts import context_messages, contexts_of
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine.generate.generation import padded, position_ids
from expertchat.engine.interface import Question, Source, names_by_engine
from expertchat.engine.local import LocalEngine
from expertchat.engine.opening import open_engine, open_engines
from expertchat.prompts import fill, rating_values, read_prompts
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.models import Load
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "config/prompts/demo"
CATEGORIES = ("expertise", "human-likeness", "factual accuracy", "coherence", "persuasiveness", "wit")
SCORES = [str(score) for score in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="folders of two models; default: demo")
    parser.add_argument("--dialogues", type=int, default=64)
    parser.add_argument("--alone", type=int, default=6, help="dialogues of the one-at-a-time baseline")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = read_prompts(PROMPTS)
    folders = arguments.models or build(texts)
    sources = [Source(f"model-{i}", folder, Load(), 128) for i, folder in enumerate(folders, 1)]
    engines = {source.name: open_engine(source) for source in sources}
    os.environ["OMP_NUM_THREADS"] = "2"
    apart, _ = open_engines(sources)  # one process and one thread for each model
    number, repeats = arguments.dialogues, arguments.repeats
    rows = [
        talking(apart, engines, texts, 8, number, arguments.alone, repeats, one_process=False),
        talking(engines, engines, texts, 8, number, arguments.alone, repeats),
        talking(engines, engines, texts, 12, number, None, repeats),
        rating(engines, texts, number, repeats, PROMPTS / "rating.jinja"),
        rating(engines, texts, number, repeats, ROOT / "config/prompts/rating.jinja"),
    ]
    for engine in apart.values():
        engine.close()
    body = markdown_table(
        ["what", "engine", "baseline", "ratio, median of runs", "lowest to highest"],
        [[str(cell) for cell in row] for row in rows],
    )
    body += (
        f"\n\n{number} dialogues, {repeats} alternating runs of each side; one at a time: "
        f"{arguments.alone} dialogues. A single process has {arguments.threads} thread(s); two "
        "processes have one each. Demo models of "
        + " and ".join(f"{count(engine):,} parameters" for engine in engines.values())
        + "."
    )
    print(body)
    if arguments.record:
        record("Engine", "benchmarks/engine.py", body)


def count(engine: LocalEngine) -> int:
    return sum(p.numel() for p in engine.model.parameters())


def build(texts: dict[str, str]) -> list[Path]:
    """The demo pair, trained in a temporary folder."""
    from expertchat.demo.build import ARCHITECTURES, build_model

    out, folders = Path(tempfile.mkdtemp()), []
    learned = {name: texts[name] for name in ("topic", "speaker", "opening", "rating")}
    for i, (name, knows) in enumerate(zip(ARCHITECTURES, halves(build_world(0)), strict=True)):
        folders.append(out / name)
        build_model(folders[-1], architecture=name, knows=knows, seed=i, prompts=learned, steps=650)
    return folders


def topics(number: int, run: str = "") -> list[dict]:
    """Topics of the demo world, one per dialogue; `run` is part of their ids."""
    world = build_world(0)
    names = [(s, f"{s} {k}") for k in range(number) for s in world.names][:number]
    return [
        {"topic_id": f"{run}t{i}", "topic": topic, "subject": subject, "split": "train"}
        for i, (subject, topic) in enumerate(names)
    ]


def compare(ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> list:
    """[ours, theirs, ratio, range]: alternating speeds, after one unmeasured run of ours."""
    ours()
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return [*(f"{m:,.0f} per second" for m in medians), f"{statistics.median(ratios):.2f}", spread]


def talking(
    ours_by,
    theirs_by,
    texts,
    turns: int,
    number: int,
    alone: int | None,
    repeats: int,
    decoding: Decoding | None = None,
    one_process: bool = True,
) -> list:
    """Tokens per second of complete dialogues: the engines against plain generate.

    `alone`: dialogues that the baseline runs one at a time; None: it runs all in the same batches.
    """
    decoding = decoding or Decoding(max_new_tokens=64)
    settings = Dialogues(turns=turns, seeds_per_topic=1, candidate_turns=[], decoding=decoding)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            # each run has names of its own, so that it finds no cached conversation of another
            begun = create_dialogues(topics(number, Path(folder).name), list(ours_by), settings)
            began = time.perf_counter()
            place, both = Path(folder), not one_process
            run_dialogues(ours_by, begun, settings, texts, 0, place, place, side_by_side=both)
            seconds = time.perf_counter() - began
            found = read_records(Path(folder) / "dialogues.jsonl")
        return sum(turn["tokens"] + 1 for d in found for turn in d["turns"]) / seconds

    def theirs() -> float:
        begun = create_dialogues(topics(number), list(theirs_by), settings)[:alone]
        began = time.perf_counter()
        parts = [[d] for d in begun] if alone else [begun]
        tokens = sum(plain_dialogues(theirs_by, part, settings, texts) for part in parts)
        return tokens / (time.perf_counter() - began)

    processes = "one process" if one_process else "two processes"
    name = "one dialogue at a time" if alone else "the same batches, no cache between turns"
    what = f"tokens of dialogues of {turns} turns, {processes}; baseline: {name}"
    return [what, *compare(ours, theirs, repeats)]


def plain_dialogues(engines, dialogues, settings: Dialogues, texts) -> int:
    """Runs dialogues with transformers' generate, those whose speakers are one model in one batch.

    Returns the number of tokens generated.
    """
    made = 0
    for turn in range(settings.turns):
        for engine, names in names_by_engine(engines):
            for dialogue in dialogues:
                dialogue["turns"] += [{}] if len(dialogue["turns"]) == turn else []
            here = [c for name in names for c in contexts_of(dialogues, name, "train", [turn])]
            if not here:
                continue
            prompts = [chat.encode(engine.tokenizer, context_messages(c, texts)) for c in here]
            ids, mask = padded(prompts, engine.pad, "cpu", "left")
            with torch.inference_mode():
                out = engine.model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=True,
                    max_new_tokens=settings.decoding.max_new_tokens,
                    pad_token_id=engine.pad,
                    eos_token_id=engine.end_ids,
                    temperature=settings.decoding.temperature,
                    top_p=settings.decoding.top_p,
                    top_k=0,
                )[:, ids.shape[1] :]
            for context, row in zip(here, out.tolist(), strict=True):
                ends = [i for i, token in enumerate(row) if token in engine.end_ids]
                kept = row[: ends[0]] if ends else row
                text = engine.tokenizer.decode(kept, skip_special_tokens=True).strip()
                context.dialogue["turns"][turn] = {"speaker": context.speaker, "text": text}
                made += len(kept) + 1
    return made


def rating(engines, texts, number: int, repeats: int, prompt: Path) -> list:
    """Ratings per second: six categories of a dialogue together, against six separate prompts."""
    engine = next(iter(engines.values()))
    settings = Dialogues(turns=8, seeds_per_topic=1, candidate_turns=[])
    with tempfile.TemporaryDirectory() as folder:
        begun = create_dialogues(topics(number), list(engines), settings)
        run_dialogues(engines, begun, settings, texts, 0, Path(folder), Path(folder))
        dialogues = read_records(Path(folder) / "dialogues.jsonl")
    template = prompt.read_text(encoding="utf-8")
    groups = [rating_questions(dialogue, template) for dialogue in dialogues]
    ours_found: list = []
    theirs_found: list = []

    def ours() -> float:
        began = time.perf_counter()
        ours_found[:] = engine.answer_logprobs(groups)
        return number * len(CATEGORIES) / (time.perf_counter() - began)

    def theirs() -> float:
        began = time.perf_counter()
        theirs_found[:] = [plain_ratings(engine, group) for group in zip(*groups, strict=True)]
        return number * len(CATEGORIES) / (time.perf_counter() - began)

    which = "demo" if prompt.parent == PROMPTS else "default"
    row = [
        f"ratings in 6 categories, {which} prompt; baseline: 6 separate prompts",
        *compare(ours, theirs, repeats),
    ]
    off = max(
        float(np.abs(a - b).max())
        for i, group in enumerate(ours_found)
        for a, b in zip(group, (column[i] for column in theirs_found), strict=True)
    )
    assert off < 1e-3, f"the two sides differ by {off} in log-probability"
    return row


def rating_questions(dialogue: dict, template: str) -> list[Question]:
    """The six questions about the dialogue's second speaker, one per category."""
    labels = dict(zip(dialogue["speakers"], "AB", strict=True))
    turns = [(labels[t["speaker"]], t["text"]) for t in dialogue["turns"]]
    texts = [
        fill(
            template,
            **rating_values(
                topic=dialogue["topic"],
                turns=turns,
                rated="B",
                scope="dialogue",
                category=category,
                description="how much of it there is",
                low=0,
                high=9,
            ),
        )
        for category in CATEGORIES
    ]
    return [Question([{"role": "user", "content": text}], SCORES) for text in texts]


def plain_ratings(engine: LocalEngine, questions: Sequence[Question]) -> list[np.ndarray]:
    """Log-probabilities of the scores from one forward pass over complete prompts, in one batch."""
    prompts = [chat.encode(engine.tokenizer, q.prompt) for q in questions]
    answers = [engine.tokenizer.encode(s, add_special_tokens=False)[0] for s in SCORES]
    ids, mask = padded(prompts, engine.pad, "cpu", "left")
    with torch.inference_mode():
        logits = engine.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
    return list(logits.float().log_softmax(-1)[:, answers].numpy())


if __name__ == "__main__":
    main()
