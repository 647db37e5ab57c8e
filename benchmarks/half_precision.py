"""Compares answers of a real model in bfloat16 with float32, on the CPU: ratings and MMLU's letters.

The differences are the same on every processor, but one without bfloat16 takes about 20 times as long.
They show what `load.dtype: bfloat16` changes, and why `auto` does not take it on CPUs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from expertchat.engine.interface import Question
from expertchat.engine.local import LocalEngine
from expertchat.records import read_records
from expertchat.settings.models import Load
from harness import read_rows, subjects_of
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = ("knowledge of the topic", "coherence", "likeness to a human expert")
SCORES, LETTERS = [f" {score}" for score in range(10)], [f" {letter}" for letter in "ABCD"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a model with its tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="folder of MMLU's CSV files")
    parser.add_argument("--questions", type=int, default=20, help="one each of the first subjects")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    ratings, letters = rating_groups(), letter_groups(arguments.data, arguments.questions)
    found = {}
    for dtype in ("float32", "bfloat16"):
        engine = LocalEngine(arguments.model, Load(dtype=dtype), 16)
        answers = engine.answer_logprobs([*ratings, *letters])
        found[dtype] = (
            np.array([row for group in answers[: len(ratings)] for row in group]),
            np.array([row for group in answers[len(ratings) :] for row in group]),
        )
        engine.close()
    (scores, logprobs), (half_scores, half_logprobs) = found["float32"], found["bfloat16"]
    expected, half_expected = expected_scores(scores), expected_scores(half_scores)
    reversed_pairs, pairs = count_reversed(expected, half_expected)
    off = np.abs(half_logprobs - logprobs).max(1)
    changed = int((half_logprobs.argmax(1) != logprobs.argmax(1)).sum())
    ranked = np.sort(logprobs, 1)
    rows = [
        ["ratings", str(len(expected))],
        ["standard deviation of the ratings in float32", f"{expected.std():.3f}"],
        ["difference of a rating, mean", f"{np.abs(half_expected - expected).mean():.3f}"],
        ["the same, largest", f"{np.abs(half_expected - expected).max():.3f}"],
        ["pairs of ratings in the other order", f"{reversed_pairs} of {pairs}"],
        ["questions of MMLU", str(len(logprobs))],
        [
            "difference of a letter's log-probability, mean of each question's largest",
            f"{off.mean():.3f}",
        ],
        ["the same, largest", f"{off.max():.3f}"],
        [
            "distance of the two likeliest letters, median",
            f"{np.median(ranked[:, -1] - ranked[:, -2]):.3f}",
        ],
        ["changed predictions", f"{changed} of {len(logprobs)}"],
    ]
    body = "bfloat16 weights and computation against float32, scale 0 to 9.\n\n"
    body += markdown_table(["what", "measured"], rows)
    print(body)
    if arguments.record:
        record("Answers in bfloat16 on a CPU", "benchmarks/half_precision.py", body)


def rating_groups() -> list[list[Question]]:
    """One group per written example of config/anchors: a question for each category."""
    groups = []
    for anchor in read_records(ROOT / "config/anchors/expert.jsonl"):
        turns = "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in anchor["turns"])
        start = f"A conversation about {anchor['topic'].lower()}:\n\n{turns}\n\n"
        asked = f"On a scale from 0 (none) to 9 (perfect), the {{}} of speaker {anchor['rated']} is"
        groups.append([Question(start + asked.format(category), SCORES) for category in CATEGORIES])
    return groups


def letter_groups(data: Path, number: int) -> list[list[Question]]:
    """The first question of each of the first subjects of MMLU's test split."""
    groups = []
    for subject in subjects_of(data)[:number]:
        question, *choices, _ = read_rows(data / "test" / f"{subject}_test.csv")[0]
        options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", choices, strict=True))
        groups.append([Question(f"{question}{options}\nAnswer:", LETTERS)])
    return groups


def expected_scores(logprobs: np.ndarray) -> np.ndarray:
    """Mean of the scores by their probabilities [ratings, 10] among the scores."""
    weights = np.exp(logprobs)
    return weights @ np.arange(10) / weights.sum(1)


def count_reversed(one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """(pairs of items that `other` orders differently than `one`, all pairs)."""
    upper = np.triu_indices(len(one), 1)
    difference, changed = np.subtract.outer(one, one)[upper], np.subtract.outer(other, other)[upper]
    return int((difference * changed < 0).sum()), len(difference)


if __name__ == "__main__":
    main()
