"""Builds the demo's two models and measures what the workflow needs of them.

Measures build time and size, variety of topics, marks of dialogues between the models, correlation of
ratings with the oracle, and few-shot accuracy by subject. The last output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from expertchat import chat
from expertchat.demo.build import ARCHITECTURES, build_model
from expertchat.demo.corpus import CATEGORIES, QUESTION_HEADER
from expertchat.demo.experts import use_dense_experts
from expertchat.demo.manner import MARKS
from expertchat.demo.oracle import score_speaker, score_turn
from expertchat.demo.questions import write_questions
from expertchat.demo.world import World, build_world, halves
from expertchat.prompts import fill, messages, rating_values, read_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

Pair = dict[str, tuple]  # name -> (model, tokenizer)
MAX_NEW_TOKENS = 56
PROMPTS = Path(__file__).parents[1] / "config" / "prompts" / "demo"


def main() -> None:
    """Builds or loads the models, measures, and prints the results."""
    arguments = parse_arguments()
    world, prompts = build_world(arguments.world_seed), read_prompts(arguments.prompts)
    report: dict[str, object] = {}
    folders = arguments.models
    if not folders:
        out = arguments.out or Path(tempfile.mkdtemp())
        report["build"] = build_both(out, arguments.seed, arguments.world_seed, prompts)
        folders = [out / name for name in ARCHITECTURES]
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    pair = {name: load(folder) for name, folder in zip(ARCHITECTURES, folders, strict=True)}
    for name, (model, _) in pair.items():
        report[f"parameters {name}"] = sum(p.numel() for p in model.parameters())
    topics, report["topics"] = sample_topics(pair, world, prompts)
    dialogues, report["self-play"] = self_play(pair, topics, world, prompts, arguments.dialogues)
    report["ratings"] = rate(pair, dialogues, world, prompts)
    report["cloze"] = cloze(pair, world, arguments.seed)
    print(json.dumps(report, indent=1))


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs=2, type=Path, help="folders of built models: Llama, Mixtral")
    parser.add_argument("--out", type=Path, help="folder for the models; default: a temporary folder")
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--dialogues", type=int, default=160, help="number of dialogues to sample")
    parser.add_argument("--threads", type=int, default=1, help="threads for the measurements")
    return parser.parse_args()


def build_both(out: Path, seed: int, world_seed: int, prompts: dict[str, str]) -> dict:
    """Builds both models at once with one thread each. Returns their metrics and the total seconds."""
    began = time.perf_counter()
    parts = halves(build_world(world_seed))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            name: pool.submit(build_one, out / name, name, knows, seed + i, world_seed, prompts)
            for i, (name, knows) in enumerate(zip(ARCHITECTURES, parts, strict=True))
        }
        metrics: dict = {name: job.result() for name, job in jobs.items()}
    metrics["seconds of both"] = time.perf_counter() - began
    return metrics


def build_one(out, architecture, knows, seed, world_seed, prompts) -> dict:
    """Builds one model on one thread. Returns its metrics."""
    torch.set_num_threads(1)
    return build_model(
        out,
        architecture=architecture,
        knows=knows,
        seed=seed,
        world_seed=world_seed,
        prompts=prompts,
    )


def load(folder: Path) -> tuple:
    """Loads a model and its tokenizer with transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if model.config.model_type == "mixtral":
        use_dense_experts(model)
    return model, AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def sample(model, tokenizer, prompts: list[list[int]]) -> list[tuple[str, bool]]:
    """Samples a reply to each prompt at temperature 1. Returns (text, whether it has an end token)."""
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    replies = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
    )[:, width:]
    ended = (replies == tokenizer.eos_token_id).any(1).tolist()
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    return [(text.strip(), end) for text, end in zip(texts, ended, strict=True)]


def sample_topics(pair: Pair, world: World, prompts: dict, draws: int = 40) -> tuple[list, dict]:
    """Returns (distinct topics with their subjects, number of distinct topics in `draws` by model)."""
    topics: list[tuple[str, str]] = []
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    on_subject = []
    for name, (model, tokenizer) in pair.items():
        for subject in world.subjects:
            request = fill(prompts["topic"], subject=subject.name)
            ids = chat.encode(tokenizer, [{"role": "user", "content": request}])
            distinct: list[str] = []
            for line, _ in sample(model, tokenizer, [ids] * draws):
                on_subject.append(any(entity in line for entity in subject.entities))
                if line and all(rouge_l(line, other) < 0.7 for other in distinct):
                    distinct.append(line)
            counts[name][subject.name] = len(distinct)
            topics += [(subject.name, line) for line in distinct]
    print(f"one topic per subject: {dict(topics)}")
    return topics, {**counts, "draws": draws, "share on subject": float(np.mean(on_subject))}


def rouge_l(one: str, other: str) -> float:
    """The F measure of ROUGE-L over lower-case words."""
    a, b = one.lower().split(), other.lower().split()
    lengths = [0] * (len(b) + 1)
    for word in a:
        before = lengths[:]
        for j, match in enumerate(b, 1):
            lengths[j] = before[j - 1] + 1 if word == match else max(before[j], lengths[j - 1])
    return 2 * lengths[-1] / (len(a) + len(b)) if a and b else 0.0


def self_play(
    pair: Pair, topics: list, world: World, prompts: dict, count: int, turns: int = 4
) -> tuple[list, dict]:
    """Lets the models talk. Returns (dialogues as (subject, topic, turns), figures of their turns)."""
    rng = random.Random(0)
    chosen = [rng.choice(topics) for _ in range(count)]
    names = list(pair)
    openers = [names[i % 2] for i in range(count)]
    talks: list[list[chat.Turn]] = [[] for _ in range(count)]
    ended: list[bool] = []
    began, lengths = time.perf_counter(), []
    for turn in range(turns):
        for name, (model, tokenizer) in pair.items():
            to_move = [i for i in range(count) if (openers[i] == name) == (turn % 2 == 0)]
            encoded = []
            for i in to_move:
                subject, topic = chosen[i]
                brief = fill(prompts["speaker"], topic=topic, subject=subject)
                opening = fill(prompts["opening"], topic=topic, subject=subject)
                messages = chat.conversation(talks[i], name, brief, opening)
                encoded.append(chat.encode(tokenizer, messages))
            for i, (text, end) in zip(to_move, sample(model, tokenizer, encoded), strict=True):
                talks[i].append(chat.Turn(name, text))
                ended.append(end)
                lengths.append(len(tokenizer.encode(text, add_special_tokens=False)))
    seconds = time.perf_counter() - began
    dialogues = [(*topic, talk) for topic, talk in zip(chosen, talks, strict=True)]
    for subject, topic, talk in dialogues[:4]:
        print(f"\n[{subject}] {topic}")
        for spoken in talk:
            print(f"  {spoken.speaker}: {spoken.text}  ({score_turn(spoken.text, world).total:.2f})")
    figures = {
        "ended": float(np.mean(ended)),
        "mean tokens": float(np.mean(lengths)),
        "longest": max(lengths),
        "tokens per second": sum(lengths) / seconds,
    }
    return dialogues, figures | {name: marks_of(name, dialogues, world, pair) for name in pair}


def marks_of(name: str, dialogues: list, world: World, pair: Pair) -> dict[str, float]:
    """Mean marks of one speaker; truth also separately for subjects that it knows and does not know."""
    own = halves(world)[list(pair).index(name)]
    scores = [
        (subject in own, score_turn(turn.text, world))
        for subject, _, talk in dialogues
        for turn in talk
        if turn.speaker == name
    ]
    table = np.array([astuple(score)[: len(MARKS)] for _, score in scores])
    known = np.array([knows for knows, _ in scores])
    truth = table[:, MARKS.index("truth")]
    stated = np.array([score.stated == 1 for _, score in scores])
    totals = table.mean(1)
    return dict(zip(MARKS, table.mean(0).round(3).tolist(), strict=True)) | {
        "truth known": float(truth[known].mean()),
        "truth unknown": float(truth[~known].mean()),
        "states one fact": float(stated.mean()),
        "total": float(totals.mean()),
        "total spread": float(totals.std()),
    }


@torch.inference_mode()
def expected_scores(model, tokenizer, prompts: list[list[int]]) -> tuple[np.ndarray, float]:
    """Returns (expected rating after each prompt, mean probability mass on valid scores)."""
    digits = [tokenizer.convert_tokens_to_ids(str(score)) for score in range(10)]
    out, mass = [], []
    for start in range(0, len(prompts), 64):
        part = prompts[start : start + 64]
        ids, mask = right_padded(part, tokenizer.pad_token_id)
        hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        last = hidden[torch.arange(len(part)), mask.sum(1) - 1]
        probabilities = model.lm_head(last).softmax(1)[:, digits]
        mass += probabilities.sum(1).tolist()
        out.append((probabilities @ torch.arange(10.0)) / probabilities.sum(1))
    return torch.cat(out).numpy(), float(np.mean(mass))


def right_padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def rate(pair: Pair, dialogues: list, world: World, prompts: dict) -> dict:
    """Spearman correlation of each rater with the oracle on the other model's turns, by scope."""
    figures: dict = {}
    names = list(pair)
    for rater, (model, tokenizer) in pair.items():
        other = next(name for name in names if name != rater)
        own = halves(world)[names.index(rater)]
        for scope in ("dialogue", "reply"):
            encoded, truth, known, facts = [], [], [], []
            for subject, topic, talk in dialogues:
                judged = [i for i, turn in enumerate(talk) if turn.speaker == other]
                ends = [len(talk)] if scope == "dialogue" else [i + 1 for i in judged]
                for end in ends:
                    texts = [talk[i].text for i in judged if i < end]
                    texts = texts[-1:] if scope == "reply" else texts
                    truth.append(score_speaker(texts, world))
                    facts.append(np.mean([score_turn(text, world).truth for text in texts]))
                    known.append(subject in own)
                    encoded += rating_prompts(tokenizer, prompts, topic, talk[:end], other, scope)
            began = time.perf_counter()
            scores, mass = expected_scores(model, tokenizer, encoded)
            table = scores.reshape(-1, len(CATEGORIES))
            mean, known, truth = table.mean(1), np.array(known), np.array(truth)
            accuracy = table[:, list(CATEGORIES).index("factual accuracy")]
            figures[f"{rater} {scope}"] = {
                "spearman": spearman(mean, truth),
                "known": spearman(mean[known], truth[known]),
                "unknown": spearman(mean[~known], truth[~known]),
                "accuracy with facts, known": spearman(accuracy[known], np.array(facts)[known]),
                "by category": {
                    name: round(spearman(column, truth), 3)
                    for name, column in zip(CATEGORIES, table.T, strict=True)
                },
                "valid mass": mass,
                "prompts per second": len(encoded) / (time.perf_counter() - began),
            }
    return figures


def rating_prompts(tokenizer, prompts, topic, talk, rated, scope) -> list[list[int]]:
    """The encoded rating prompts about one speaker, one per category."""
    label = {name: "AB"[i] for i, name in enumerate(dict.fromkeys(turn.speaker for turn in talk))}
    turns = [(label[turn.speaker], turn.text) for turn in talk]
    return [
        chat.encode(
            tokenizer,
            messages(
                prompts["rating"],
                **rating_values(
                    topic=topic,
                    turns=turns,
                    rated=label[rated],
                    scope=scope,
                    category=category,
                    description="",
                    low=0,
                    high=9,
                ),
            ),
        )
        for category in CATEGORIES
    ]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; tied values have their mean rank."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values have their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


@torch.inference_mode()
def answer_scores(model, tokenizer, rows: list[tuple[str, list[str]]]) -> np.ndarray:
    """Log-probability of each answer text after its prompt, (rows, answers)."""
    items = []
    for prompt, answers in rows:
        head = tokenizer.encode(prompt)
        for answer in answers:
            items.append((head, tokenizer.encode(f" {answer}", add_special_tokens=False)))
    out = []
    for start in range(0, len(items), 64):
        part = items[start : start + 64]
        ids, mask = right_padded([head + tail for head, tail in part], tokenizer.pad_token_id)
        logits = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
        for row, (head, tail) in enumerate(part):
            positions = range(len(head) - 1, len(head) + len(tail) - 1)
            out.append(sum(logits[row, p, t].item() for p, t in zip(positions, tail, strict=True)))
    return np.array(out).reshape(len(rows), -1)


def cloze(pair: Pair, world: World, seed: int) -> dict:
    """Five-shot accuracy by subject of each model and of their uniform mixture."""
    figures: dict = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        write_questions(Path(folder), world, seed)
        for subject in world.names:
            dev, test = (read_rows(Path(folder), split, subject) for split in ("dev", "test"))
            shots = [f"Question: {r[0]}\nAnswer: {r['ABCD'.index(r[5]) + 1]}" for r in dev]
            head = "\n\n".join([QUESTION_HEADER.format(subject=subject), *shots])
            rows = [(f"{head}\n\nQuestion: {r[0]}\nAnswer:", r[1:5]) for r in test]
            right = np.array(["ABCD".index(r[5]) for r in test])
            scores = {name: answer_scores(*loaded, rows) for name, loaded in pair.items()}
            likelihoods = {name: np.exp(score) for name, score in scores.items()}
            answers = {n: p / p.sum(1, keepdims=True) for n, p in likelihoods.items()}
            answers["mixture"] = sum(answers.values()) / len(pair)
            for name, probabilities in answers.items():
                figures[name][subject] = round(float((probabilities.argmax(1) == right).mean()), 3)
    parts = dict(zip(pair, halves(world), strict=True))
    for name in pair:
        own = [v for k, v in figures[name].items() if k in parts[name]]
        rest = [v for k, v in figures[name].items() if k in world.names and k not in parts[name]]
        figures[name] |= {"own": float(np.mean(own)), "others": float(np.mean(rest))}
    figures["mixture"]["all"] = float(np.mean(list(figures["mixture"].values())))
    return figures


def read_rows(folder: Path, split: str, subject: str) -> list[list[str]]:
    """The rows of one questions file."""
    with (folder / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


if __name__ == "__main__":
    main()
