"""How well the scores of stage topics' gate separate topics of their subject from other texts.

The texts in topic_texts.jsonl were written by SmolLM2-135M-Instruct and have passed the rules of form; a
person has marked each as a topic of its subject or not. The figure is the area under the ROC curve: the
probability that a topic has a higher score than a text that is none, 0.5 for a score that says nothing.

    python benchmarks/topic_gate.py path/to/model --record
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from expertchat.engine.local import LocalEngine
from expertchat.prompts import read_prompts
from expertchat.settings.models import Load
from expertchat.settings.topics import Gate
from expertchat.topics.gate import naturalness, text_scores
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
TEXTS = Path(__file__).with_name("topic_texts.jsonl")
THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    good = np.array([row["good"] for row in rows])
    engines = {"model": LocalEngine(arguments.model, Load(dtype="float32"), 32)}
    prompts = read_prompts(ROOT / "config/prompts")
    topics = [(row["topic"], row["subject"]) for row in rows]
    subjects = sorted({subject for _, subject in topics})
    table, kept = [], []
    for score in ("likelihood", "answer"):
        scores = text_scores(engines, topics, Gate(score=score), prompts, subjects)
        contrast = scores[:, 0] - scores[:, 1:].mean(1)
        natural = [
            naturalness(own, text, Gate(score=score))
            for own, (text, _) in zip(scores[:, 0], topics, strict=True)
        ]
        areas = [area(scores[:, 0], good), area(contrast, good), area(natural + contrast, good)]
        table.append([score, *(f"{value:.2f}" for value in areas)])
        if score == "likelihood":
            gate = 1 / (1 + np.exp(-contrast))
            kept = [
                [f"{t:.2f}", str((gate >= t).sum()), f"{good[gate >= t].mean():.2f}"] for t in THRESHOLDS
            ]
    body = (
        f"{len(rows)} texts by a 135M model that have the form of topics; by reading, {good.sum()} are "
        "topics of their subject. Area under the ROC curve of each score, for the text's own subject "
        "alone, in contrast with other subjects, and the sum by which the best of several is chosen:\n\n"
        + markdown_table(["score", "own subject", "contrast", "sum for the best"], table)
        + "\n\nWhat the gate keeps of them with `score: likelihood`:\n\n"
        + markdown_table(["threshold", "kept", "of them topics"], kept)
    )
    print(body)
    if arguments.record:
        record("The gate of stage topics", "benchmarks/topic_gate.py", body)


def area(scores: np.ndarray, good: np.ndarray) -> float:
    """Area under the ROC curve; equal scores count half."""
    above = scores[good][:, None] - scores[~good][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


if __name__ == "__main__":
    main()
