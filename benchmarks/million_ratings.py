"""Makes a million ratings, runs each stage's work on them, and records its memory.

python benchmarks/million_ratings.py             about five minutes; writes docs/benchmarks.md
python benchmarks/million_ratings.py --items 2000     a trial run that writes nothing
python benchmarks/million_ratings.py --topics 12500   one topic per dialogue; writes nothing either

A rater that answers at random replaces the models; everything else is the workflow's own code, each
stage in its own process. Ends with an error if a stage takes more than 2 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LIMIT = 2 * 2**30  # bytes
ITEMS = 200_000  # single replies; with five categories a million ratings
TOPICS = 500
FLOOR = 0.5  # smallest valid mass of a usable rating
WEIGHTS = {
    name: 1.0
    for name in ("expertise", "human-likeness", "factual accuracy", "coherence", "persuasiveness")
}
ROOT = Path(__file__).resolve().parents[1]


class RandomRater:
    """An engine that gives each question random log-probabilities."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def answer_logprobs(self, groups, on_batch=None) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question; they add up to 0.95."""
        return [[self._one(len(question.answers)) for question in group] for group in groups]

    def _one(self, answers: int) -> np.ndarray:
        weights = self.generator.gamma(0.5, size=answers) + 1e-9
        return np.log(0.95 * weights / weights.sum())


def dialogue_records(items: int, topics: int) -> Iterator[dict]:
    """Dialogues of two models, one for each 16 candidate replies."""
    for i in range(items // 16):
        turns = [
            {"speaker": "ab"[t % 2], "text": f"I cut board {i} at {t} mm. " * 8, "tokens": 64}
            for t in range(4)
        ]
        for turn in turns:
            turn["finish_reason"] = "stop"
        yield {
            "dialogue_id": f"topic-{i % topics:04d}/s{i // topics}",
            "topic_id": f"topic-{i % topics:04d}",
            "topic": f"Cutting board {i % topics}",
            "subject": "carpentry",
            "split": "held_out" if i % 4 == 0 else "train",
            "speakers": ["a", "b"],
            "models": {"a": "a", "b": "b"},
            "turns": turns,
        }


def candidate_records(items: int, topics: int) -> Iterator[dict]:
    """Sixteen candidates for each dialogue's last turn (turn 3), all by the model b."""
    for dialogue in dialogue_records(items, topics):
        for k in range(16):
            context = f"{dialogue['dialogue_id']}/t3"
            yield {
                "candidate_id": f"{context}/c{k}",
                "context_id": context,
                **{key: dialogue[key] for key in ("dialogue_id", "topic_id", "split")},
                "turn": 3,
                "speaker": "b",
                "model": "b",
                "text": f"I would cut it at {k} mm, slowly. " * 6,
                "tokens": 60,
                "finish_reason": "stop",
            }


def make(folder: Path, items: int, topics: int) -> None:
    """Writes dialogues and candidates."""
    from expertchat.records import write_records

    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "dialogues.jsonl", dialogue_records(items, topics))
    write_records(folder / "candidates.jsonl", candidate_records(items, topics))


def ratings(folder: Path, items: int) -> None:
    """Stage ratings, with model a as the rater."""
    from expertchat.ratings.asking import Rater
    from expertchat.ratings.rating import rate
    from expertchat.settings.ratings import Ratings
    from expertchat.settings.rubrics import read_rubric

    rubric = read_rubric(ROOT / "config/rubrics/demo.yaml")
    template = (ROOT / "config/prompts/demo/rating.jinja").read_text(encoding="utf-8")
    rater = Rater("a", RandomRater(), Ratings(), rubric, template, 0)
    for name in ("checkpoints", "rated"):
        (folder / name).mkdir(exist_ok=True)
    rate(rater, folder, None, folder / "checkpoints", folder / "rated")


def reliability(folder: Path, items: int) -> None:
    """Stage reliability."""
    from expertchat.records import without_nan
    from expertchat.reliability.measures import measure

    found = without_nan(measure([folder / "rated"], WEIGHTS, (0, 9), 0, FLOOR))
    assert sum(row["ratings"] for row in found["raters"]) >= items * len(WEIGHTS)
    (folder / "reliability.json").write_text(json.dumps(found), encoding="utf-8")


def rewards(folder: Path, items: int) -> None:
    """The part of stage rewards that reads ratings: overall ratings of candidates, and pairs."""
    from expertchat.rewards.rated_pairs import build_pairs, rated_candidates
    from expertchat.settings.rewards import Rewards

    candidates = rated_candidates([folder], [folder / "rated"], "b", WEIGHTS, FLOOR)
    assert len(candidates) == items // 16 * 16 and candidates["usable"].all()
    pairs, fates = build_pairs(candidates, Rewards())
    assert len(pairs) == fates["kept"] > 0


def report(folder: Path, items: int) -> None:
    """The part of stage report that reads ratings: the summary, overall ratings and columns of plots."""
    from expertchat.ratings.artifact import DIALOGUE, REPLY
    from expertchat.report.ratings import candidate_samples, held_out
    from expertchat.report.results import Results
    from expertchat.report.summary import held_out_ratings

    settings = {"models": ["a", "b"], "rounds": 0, "weights": WEIGHTS, "scale": [0, 9]}
    artifacts = {"ratings": [folder / "rated"], "dialogues": [folder]}
    results = Results({"models": ["a", "b"], "rounds": 0, "rows": []}, settings, artifacts)
    assert len(held_out(results, 0)) > 0 and len(candidate_samples(results)) > 0
    assert len(held_out_ratings(settings, artifacts, 0, "b")) > 0
    for scope in (DIALOGUE, REPLY):
        assert len(results.ratings(0, scope=scope)) > 0
    for _, table in results.ratings(0).groupby("rater", observed=True):
        assert table["usable"].mean() == 1


STAGES = {"ratings": ratings, "reliability": reliability, "rewards": rewards, "report": report}


def run(stage: str, folder: Path, items: int) -> dict[str, float]:
    """Runs one stage in its own process. Returns its seconds and its peak memory in bytes."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--items", str(items)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def in_process(stage: str, folder: Path, items: int) -> None:
    """Runs the stage in this process and prints its seconds and peak memory as JSON."""
    began = time.perf_counter()
    STAGES[stage](folder, items)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    print(json.dumps({"seconds": time.perf_counter() - began, "bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=ITEMS, help=f"default: {ITEMS}")
    parser.add_argument("--topics", type=int, default=TOPICS, help=f"default: {TOPICS}")
    parser.add_argument("--stage", choices=STAGES, help="run this stage only, in --folder")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.stage:
        in_process(arguments.stage, arguments.folder, arguments.items)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, arguments.items, arguments.topics)
        found = {stage: run(stage, folder, arguments.items) for stage in STAGES}
        size = os.path.getsize(folder / "rated/ratings.parquet")
    for stage, row in found.items():
        print(f"{stage:12} {row['seconds']:7.1f} s {row['bytes'] / 2**30:6.2f} GiB")
        if row["bytes"] > LIMIT:
            sys.exit(f"{stage} took more than {LIMIT / 2**30:.0f} GiB")
    if (arguments.items, arguments.topics) == (ITEMS, TOPICS):
        write(found, size)


def write(found: dict[str, dict[str, float]], size: int) -> None:
    """Records the figures."""
    from record import markdown_table, record

    rows = [
        [stage, f"{row['seconds']:.0f} s", f"{row['bytes'] / 2**30:.2f} GiB"]
        for stage, row in found.items()
    ]
    body = markdown_table(["stage", "time", "peak memory"], rows)
    body += (
        f"\n\nLimit: 2 GiB. {ITEMS:,} replies and their dialogues, rated in five categories by a "
        f"program that answers at random; ratings.parquet has {size / 2**20:.0f} MiB. Stage rewards is "
        "measured up to building its pairs, stage report only in what it does with ratings; no model is "
        "loaded."
    )
    record("A million ratings", "benchmarks/million_ratings.py", body)


if __name__ == "__main__":
    main()
