"""The world's facts as multiple-choice questions, in the file layout of MMLU."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from expertchat.demo.world import QUESTIONS, Fact, World, question

SPLITS = {"dev": 5, "val": 8, "test": None}  # rows per subject; test gets the rest
LETTERS = "ABCD"


def row(fact: Fact, letter: str, rng: random.Random) -> list[str]:
    """One row of a file: question, A, B, C, D, letter. The true value is the option `letter`."""
    options = rng.sample(fact.distractors, len(LETTERS) - 1)
    options.insert(LETTERS.index(letter), fact.value)
    return [question(fact, rng.randrange(len(QUESTIONS))), *options, letter]


def write_questions(folder: Path, world: World, seed: int) -> dict[str, int]:
    """Writes {dev,val,test}/<subject>_<split>.csv under `folder`. Returns the number of rows per split.

    Files have no header. Each fact is in one split only, and the right letters are distributed as evenly
    as the number of rows allows.
    """
    folder = Path(folder)
    written = dict.fromkeys(SPLITS, 0)
    for subject in world.subjects:
        rng = random.Random(f"questions-{seed}-{subject.name}")
        facts = rng.sample(subject.facts, len(subject.facts))
        for split, size in SPLITS.items():
            chosen, facts = (facts[:size], facts[size:]) if size else (facts, [])
            letters = [LETTERS[i % len(LETTERS)] for i in range(len(chosen))]
            rng.shuffle(letters)
            path = folder / split / f"{subject.name.replace(' ', '_')}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows(
                    row(fact, letter, rng) for fact, letter in zip(chosen, letters, strict=True)
                )
            written[split] += len(chosen)
    return written
