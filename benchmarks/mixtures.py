"""Mixes simulated models of known skill: how long it takes, and whether the promised gain is real.

python benchmarks/mixtures.py --questions DIR           minutes; writes docs/benchmarks.md
python benchmarks/mixtures.py --questions DIR --draws 1   a trial run that writes nothing

DIR holds MMLU in its original layout; the default is $EXPERTCHAT_DATA/mmlu. Answers are simulated: a
model's score of the right answer is its skill in the subject, plus noise that all models share and noise
of its own. It is therefore known where a mixture can gain and where an apparent gain would be an error.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from expertchat.mixture.evaluation import answer_rows, mix_answers, score_mixtures
from expertchat.mixture.fits import fit_mixtures
from expertchat.mmlu.categories import HARNESS
from expertchat.questions.artifact import LETTERS, read_split
from record import markdown_table, record

DRAWS = 5


@dataclass(frozen=True)
class World:
    """How answers are simulated. Skills are normal around `skill`, by model and by model and subject."""

    title: str
    models: int = 3
    skill: float = 0.6
    by_model: float = 0.0
    by_subject: float = 0.0
    shared: float = 1.0  # noise of all models
    own: float = 1.0


WORLDS = (
    World("equal models, errors half shared"),
    World("equal models, errors nearly all shared", skill=0.8, shared=2.0, own=0.3),
    World("models that know nothing", skill=0.0),
    World("one model better than the others", by_model=0.4),
    World("experts by subject", by_subject=1.0),
)
TIMED = (World("3", by_subject=0.5), World("10", models=10, by_subject=0.5))


def read_questions(folder: Path, split: str) -> pd.DataFrame:
    """All questions of a split: subject, index, question, A to D, gold."""
    rows = [
        (subject, index, question.question, *question.answers, question.gold)
        for subject, questions in read_split(folder, split).items()
        for index, question in enumerate(questions)
    ]
    return pd.DataFrame(rows, columns=["subject", "index", "question", *LETTERS, "gold"])


def draw_answers(world: World, splits: dict[str, pd.DataFrame], seed: int):
    """{split: {model: answers}}, as stage answers writes them."""
    generator = np.random.default_rng(seed)
    subjects = sorted(set(splits["test"]["subject"]))
    skills = world.skill + world.by_model * generator.normal(size=(world.models, 1))
    skills = skills + world.by_subject * generator.normal(size=(world.models, len(subjects)))
    found = {}
    for split, asked in splits.items():
        places, gold = np.searchsorted(subjects, asked["subject"]), np.eye(4)[asked["gold"]]
        shared = world.shared * generator.normal(size=gold.shape)
        found[split] = {}
        for name, skill in zip("abcdefghij", np.maximum(skills, 0), strict=False):
            own = world.own * generator.normal(size=gold.shape)
            scores = skill[places][:, None] * gold + shared + own
            logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
            table = asked.assign(mass=0.9, also_in_test=False)
            for place, letter in enumerate(LETTERS):
                table[f"p_{letter}"] = np.exp(logs[:, place])
                table[f"logprob_{letter}"] = logs[:, place] + np.log(0.9)
            found[split][name] = table
    return found


def mixed(world: World, splits: dict[str, pd.DataFrame], seed: int):
    """(scores as stage mixture writes them, CPU seconds of fits, CPU seconds of mixture)."""
    answers = draw_answers(world, splits, seed)
    began = time.process_time()
    fits = fit_mixtures(answers["val"], HARNESS, seed)
    between = time.process_time()
    table, by_method = mix_answers(fits, answers["test"], HARNESS)
    answer_rows(table, by_method)
    scores = score_mixtures(fits, table, by_method, seed)
    return scores, between - began, time.process_time() - between


def honesty_row(world: World, splits: dict[str, pd.DataFrame], draws: int) -> list[str]:
    """Means over the draws, in percent: accuracy promised on val and accuracy reached on test."""
    values = []
    for seed in range(draws):
        scores, *_ = mixed(world, splits, seed)
        rows = {row["method"]: row for row in scores["methods"]}
        best = rows[scores["best_fitted"]]
        accuracies = [rows[name]["accuracy"] for name in ("best_single", "uniform", "oracle")]
        values.append([*accuracies, best["val_accuracy"], best["accuracy"]])
    single, uniform, oracle, promised, reached = 100 * np.mean(values, 0)
    figures = (single, uniform, promised, reached, oracle)
    return [world.title, *(f"{x:.1f}" for x in figures), f"{reached - single:+.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("EXPERTCHAT_DATA")
    parser.add_argument("--questions", type=Path, default=Path(data) / "mmlu" if data else None)
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    if arguments.questions is None:
        parser.error("--questions is required if EXPERTCHAT_DATA is not set")
    splits = {split: read_questions(arguments.questions, split) for split in ("val", "test")}
    head = ["models", "best single", "uniform", "best fitted, val", "best fitted", "oracle", "gain"]
    rows = [honesty_row(world, splits, arguments.draws) for world in WORLDS]
    seconds = [[world.title, *(f"{s:.1f}" for s in mixed(world, splits, 0)[1:])] for world in TIMED]
    sizes = ", ".join(f"{len(table):,} questions of {split}" for split, table in splits.items())
    body = (
        f"Simulated answers to {sizes}. Accuracies in percent, on test unless val is named; means over "
        f"{arguments.draws} draws. The best fitted mixture is chosen on val. Gain: over the single "
        "model that is best on val.\n\n"
        + markdown_table(head, rows)
        + "\n\nCPU seconds for all methods, the cross-validation folds and the curve:\n\n"
        + markdown_table(["models", "fits", "mixture"], seconds)
    )
    print(body)
    if arguments.draws >= DRAWS:
        record("Mixtures", "benchmarks/mixtures.py", body)


if __name__ == "__main__":
    main()
