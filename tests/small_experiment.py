"""A small experiment written by hand: the files of every stage, with figures that are easy to check.

The held-out topics are sailing-00 and sailing-01. In round n (0: base) both raters rate the dialogues on
them 4 + n and 6 + n in all categories. The other values are described where they are written.
"""

import json
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from expertchat.engine.timed import DoesNotFit, Loaded, Timing
from expertchat.mixture.artifact import write_fits
from expertchat.mixture.evaluation import answer_rows, mix_answers, score_mixtures
from expertchat.mixture.fits import fit_mixtures
from expertchat.mmlu.categories import HARNESS
from expertchat.mmlu.harness import result_files
from expertchat.mmlu.scores import scores
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import artifact_path, write_manifest
from expertchat.questions.sources import describe, write_splits
from expertchat.ratings.anchors import check_anchors
from expertchat.ratings.artifact import RATER_ANCHOR_SCHEMA, RATING_SCHEMA, TEXT_SCHEMA, write_table
from expertchat.records import without_nan, write_json, write_records
from expertchat.reliability.measures import measure
from expertchat.results import ExperimentResults
from expertchat.settings.speeds import Speeds
from expertchat.speeds.sweep import time_cell
from expertchat.topics.writing import diversity_summary

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = ("carpentry", "sailing")
COUNTS = {"dev": 5, "test": 4, "val": 5}  # questions per subject
FACTS = {
    "seconds": 2.5,
    "finished": "2026-01-02T03:04:05Z",
    "peak_memory_bytes": 2**20,
    "machine": {"host": "secret", "platform": "Linux", "cpus": 2, "gpus": []},
    "versions": {"python": "3.11", "torch": "2.13.0"},
}


def small_config(names=("llama", "mixtral"), **changes) -> dict:
    """The default experiment with two subjects, one of them held out."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    config["models"] = dict(zip(names, config["models"].values(), strict=True))
    config["pairs"] = [list(names)]
    config["topics"] = {"subjects": list(SUBJECTS), "held_out_subjects": 1, "per_subject": 2}
    config["dialogues"] = {"turns": 2, "seeds_per_topic": 1, "candidate_turns": [1], "candidates": 2}
    return config | changes


def asking_config(names=("a", "b", "c"), **changes) -> dict:
    """An experiment without dialogues: models with these names answer questions."""
    whole = small_config()
    models = {name: whole["models"]["llama"] | {"seed": seed} for seed, name in enumerate(names)}
    config = {key: whole[key] for key in ("prompts", "world", "mmlu", "ratings")}
    return config | {"name": "asked", "rounds": 0, "models": models} | changes


def write_experiment(
    store: Path, config: dict, said: str = "I cut the rope at noon.", subjects=SUBJECTS
) -> ExperimentResults:
    """The results of the experiment, as stage report reads them.

    Every turn and reply has the text `said`; the questions are on `subjects`.
    """
    plan = make_plan(read_experiment(config, ROOT), ROOT)
    (report,) = [recipe for recipe in plan.recipes.values() if recipe.stage == "report"]
    settings, inputs = report.settings, report.inputs
    asked = artifact_path(store, inputs["questions"]) if "questions" in inputs else None
    more = settings | {"subjects": subjects, "questions": asked}
    for stage, references in inputs.items():
        for place, reference in enumerate([references] if isinstance(references, str) else references):
            folder = artifact_path(store, reference)
            folder.mkdir(parents=True, exist_ok=True)
            WRITERS[stage](folder, more, place, said)
            write_manifest(folder, plan.recipes[reference], FACTS)
    return ExperimentResults(store, settings["places"], settings)


def topic_list() -> list[dict]:
    return [
        {
            "topic_id": f"{subject}-{number:02d}",
            "topic": f"{subject} {number}",
            "subject": subject,
            "group": "",
            "audience": "",
            "kind": "",
            "note": "",
            "author": "llama",
            "split": "held_out" if subject == SUBJECTS[-1] else "train",
            "gate": None,
        }
        for subject in SUBJECTS
        for number in range(2)
    ]


def _topics(folder: Path, settings: dict, place: int, said: str) -> None:
    write_records(folder / "topics.jsonl", topic_list())
    rejected = [{"topic": said, "subject": "sailing", "author": "llama", "reason": "duplicate"}]
    rejected[0] |= {"like": said, "similarity": 1.0, "gate": None}
    write_records(folder / "rejected.jsonl", rejected)
    text = json.dumps(diversity_summary(topic_list(), rejected))
    (folder / "diversity.json").write_text(text, encoding="utf-8")


def _reply(speaker: str, said: str) -> dict:
    reply = {"speaker": speaker, "text": said, "tokens": 8, "finish_reason": "length"}
    return reply | {"cut": "", "flags": ["truncated"]}


def _dialogues(folder: Path, settings: dict, place: int, said: str) -> None:
    pair, dialogues, candidates = list(settings["models"]), [], []
    for number, topic in enumerate(topic_list()):
        speakers = pair if number % 2 == 0 else pair[::-1]
        named = {key: topic[key] for key in ("topic_id", "topic", "subject", "split")}
        dialogue_id = f"{topic['topic_id']}/s0"
        turns = [_reply(speaker, said) for speaker in speakers]
        seats = {"models": {name: name for name in pair}, "roles": {}}
        dialogues.append(
            {"dialogue_id": dialogue_id, **named, "speakers": speakers, "turns": turns} | seats
        )
        for k in range(2):
            candidate = {"candidate_id": f"{dialogue_id}/t1/c{k}", "context_id": f"{dialogue_id}/t1"}
            candidate |= {"dialogue_id": dialogue_id, "topic_id": named["topic_id"], "turn": 1}
            candidate |= {"split": named["split"], "model": speakers[1]}
            candidates.append(candidate | _reply(speakers[1], f"{said} {k}"))
    write_records(folder / "dialogues.jsonl", dialogues)
    write_records(folder / "candidates.jsonl", candidates)


def _ratings(folder: Path, settings: dict, place: int, said: str) -> None:
    number, pair = place // 2, list(settings["models"])
    rater, ratee = pair[place % 2], pair[1 - place % 2]
    rows, texts = [], []
    for index, topic in enumerate(topic_list()):
        dialogue_id = f"{topic['topic_id']}/s0"
        items = [("dialogue", dialogue_id, 4.0 + number + 2 * (index % 2))]
        items += [("reply", f"{dialogue_id}/t1/c{k}", 3.0 + k) for k in range(2)]
        for scope, item_id, score in items:
            named = {"rater": rater, "ratee": ratee, "model": ratee, "relation": "partner"}
            named |= {"scope": scope, "item_id": item_id, "split": topic["split"]}
            named |= {"topic_id": topic["topic_id"]}
            texts.append(named | {"words": 6, "bytes": 23, "bits_per_byte": None})
            for category in settings["weights"]:
                row = named | {"category": category, "canary": "", "order": 0, "repeat": 0, "label": "B"}
                rows.append(row | {"score": score, "entropy": 1.0, "valid_mass": 0.9})
    write_table(folder / "ratings.parquet", rows, RATING_SCHEMA)
    write_table(folder / "texts.parquet", texts, TEXT_SCHEMA)
    write_table(folder / "anchors.parquet", [], RATER_ANCHOR_SCHEMA)
    write_json(folder / "anchors.json", {"rater": rater, **check_anchors([])})


def _reliability(folder: Path, settings: dict, place: int, said: str) -> None:
    """The measures of stage reliability on the ratings of its round."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, str(i)) for i in range(2)]
        for i, ratings in enumerate(folders):
            ratings.mkdir()
            _ratings(ratings, settings, 2 * place + i, said)
        floor = settings["min_valid_mass"]
        found = measure(folders, settings["weights"], tuple(settings["scale"]), 0, floor)
    text = json.dumps(without_nan(found), allow_nan=False)
    (folder / "reliability.json").write_text(text, encoding="utf-8")


def _rewards(folder: Path, settings: dict, place: int, said: str) -> None:
    found = {
        "pairs": 4,
        "accuracy": 0.75,
        "accuracy_interval": [0.5, 1.0],
        "calibration_error": 0.1,
        "log_loss": 0.5,
        "length_accuracy": 0.5,
        "length_correlation": 0.1,
        "score_spread": 1.0,
        "fates": {"kept": 4, "tie": 1},
    }
    training = {"pairs": 4, "topics": 2, "fates": found["fates"]}
    best = {"contexts": 2, "accuracy": 0.5, "accuracy_interval": [0.0, 1.0]}
    parts = {"training": training, "cross_fitted": found, "held_out": found, "best_of_4": best}
    about = {"scale": 0.5, "folds": 2, "members": 1, "shortened": 0, "cut": 0}
    text = json.dumps(about | parts)
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    pairs = pd.DataFrame({"split": "held_out", "margin": [1.0, 2.0, 3.0, 4.0]})
    pairs = pairs.assign(chosen_score=[1.0, 2.0, -1.0, 3.0], rejected_score=[0.0, 0.0, 0.0, 3.0])
    pairs.to_parquet(folder / "pairs.parquet")


def _policies(folder: Path, settings: dict, place: int, said: str) -> None:
    steps = pd.DataFrame({"step": range(20), "score": range(20), "kl": 2.0, "ended": 1.0})
    steps.assign(reply_tokens=8.0, tokens=64).to_parquet(folder / "steps.parquet")
    (folder / "outcome.json").write_text(json.dumps({"tuned": True, "steps": 20, "reason": None}))


def _replies(folder: Path, settings: dict, place: int, said: str) -> None:
    speaker = settings["models"][place % 2]
    rows = [
        {"context_id": f"{topic['topic_id']}/s0/t1", "topic_id": topic["topic_id"], "number": 0}
        for topic in topic_list()
        if topic["split"] == "held_out"
    ]
    write_records(folder / "replies.jsonl", [row | _reply(speaker, said) for row in rows])


def _questions(folder: Path, settings: dict, place: int, said: str) -> None:
    """Four test and five val questions per subject; carpentry's last val question is also in test."""
    splits = {
        split: [
            {
                "subject": subject,
                "question": f"{subject} {'test' if repeated(subject, split, index) else split} {index}?",
                "choices": ["one", "two", "three", "four"],
                "answer": index % 4,
            }
            for subject in settings["subjects"]
            for index in range(count)
        ]
        for split, count in COUNTS.items()
    }
    write_splits(splits, [], folder)
    (folder / "questions.json").write_text(json.dumps(describe(folder)), encoding="utf-8")


def repeated(subject: str, split: str, index: int) -> bool:
    return (subject, split, index) == ("carpentry", "val", 4)


def answer_table(subjects, model: int, number: int, split: str = "test") -> pd.DataFrame:
    """The answers of the model with index `model` after `number` rounds, in stage answers' columns.

    Subjects with an even index are like carpentry: all models know the first two of four questions; on
    the others each slightly prefers a different wrong answer, so that the mean of the models is right.
    Subjects with an odd index are like sailing: models with an even index know the first two questions,
    models with an odd index the last two, and both are more confident in their wrong answers. After
    tuning, each model knows one more question on sailing.
    """
    rows = []
    for place, subject in enumerate(subjects):
        for index in range(COUNTS[split]):
            i, gold = index % 4, index % 4
            if place % 2 == 0:
                p = (
                    [0.7, 0.1, 0.1, 0.1]
                    if i < 2
                    else [0.4, *(0.5 if k == model % 3 else 0.05 for k in range(3))]
                )
            else:
                more = number > 0 and i == (1 if model % 2 else 2)
                right = i // 2 == model % 2 or more
                p = [0.5, 0.2, 0.2, 0.1] if right else [0.04, 0.9, 0.03, 0.03]
            p = np.roll(p, gold)
            row = {"subject": subject, "index": index, "question": f"{subject} {split} {index}?"}
            row |= dict(zip("ABCD", "1234", strict=True))  # one character: nothing to normalize
            row |= {"gold": gold, "prediction": int(p.argmax()), "shots": 5, "shortened": False}
            row |= {"beyond_harness": False}
            row |= {f"logprob_{x}": np.log(0.9 * p[k]) for k, x in enumerate("ABCD")}
            row |= {f"p_{x}": p[k] for k, x in enumerate("ABCD")} | {"mass": 0.9}
            rows.append(
                row | ({"also_in_test": repeated(subject, split, index)} if split == "val" else {})
            )
    return pd.DataFrame(rows).sort_values(["subject", "index"], ignore_index=True)


def answer_tables(settings: dict, number: int, split: str = "test") -> dict[str, pd.DataFrame]:
    return {
        name: answer_table(settings["subjects"], place, number, split)
        for place, name in enumerate(settings["models"])
    }


def _answers(folder: Path, settings: dict, place: int, said: str) -> None:
    shards = settings["experiment"]["mmlu"]["shards"]
    number, model = divmod(place // shards, len(settings["models"]))
    table = answer_table(settings["subjects"], model, number)
    here = table["subject"].isin(settings["subjects"][place % shards :: shards])
    table[here].to_parquet(folder / "answers.parquet")


def _mmlu(folder: Path, settings: dict, place: int, said: str) -> None:
    """The files of stage mmlu for these answers, except those that are named after models."""
    after = answer_tables(settings, place)
    found = scores(after, answer_tables(settings, 0) if place else None)
    section = settings["experiment"]["mmlu"]
    files = result_files(
        found, after, section, place, settings["questions"], {name: [] for name in after}
    )
    (folder / "scores.json").write_text(json.dumps(files["scores.json"]), encoding="utf-8")


@cache
def fits_of(models: tuple[str, ...], subjects: tuple[str, ...], number: int) -> dict:
    """The mixtures fitted on the models' answers to the val split after `number` rounds."""
    settings = {"models": models, "subjects": subjects}
    return fit_mixtures(answer_tables(settings, number, "val"), HARNESS, 0)


def _fits(folder: Path, settings: dict, place: int, said: str) -> None:
    write_fits(folder, fits_of(tuple(settings["models"]), settings["subjects"], place))


def _mixture(folder: Path, settings: dict, place: int, said: str) -> None:
    fits = fits_of(tuple(settings["models"]), settings["subjects"], place)
    table, mixed = mix_answers(fits, answer_tables(settings, place), HARNESS)
    answer_rows(table, mixed).to_parquet(folder / "answers.parquet")
    text = json.dumps(without_nan(score_mixtures(fits, table, mixed, 0)), allow_nan=False)
    (folder / "mixture.json").write_text(text, encoding="utf-8")


def _speeds(folder: Path, settings: dict, place: int, said: str) -> None:
    """The variant in `place` takes 1 + `place` s a batch of one sample, and 1 + `place` GB; batches of
    four do not fit."""
    section = Speeds(**settings["experiment"]["speeds"])
    rows = []
    for cell in section.cells():
        timing = Timing(1.0 + place, cell["output_tokens"], 0.25, 0.75 + place, (1 + place) * 10**9)

        def run(prompt, output, rows, seed, timing=timing):
            if rows > 1:
                raise DoesNotFit("memory ran out")
            return timing

        row = time_cell(run, cell, 2, 0, "")
        rows.append(row | {"device": "a card", "gpus": 1, "threads": 2})
    write_records(folder / "speeds.jsonl", rows)
    loaded = Loaded("a card", 1, 2, "float16", 2_780_000_000, 10**9, 10**9 - place, 3.0, 10**9)
    write_json(folder / "loaded.json", asdict(loaded))


def _oracle(folder: Path, settings: dict, place: int, said: str) -> None:
    rows = [
        {
            "round": number + 1,
            "model": name,
            "rating_oracle_spearman": float("nan"),
            "dialogues": 2,
            "oracle_win_rate": 0.8,
            "oracle_win_rate_interval": [0.7, 0.9],
            "contexts": 2,
            "topics": 2,
            "oracle_before": {"total": 0.5, "truth": 0.6},
            "oracle_after": {"total": 0.7, "truth": 0.2},
        }
        for number in range(settings["rounds"])
        for name in settings["models"]
    ]
    (folder / "oracle.json").write_text(json.dumps(rows), encoding="utf-8")


WRITERS = {
    "topics": _topics,
    "dialogues": _dialogues,
    "ratings": _ratings,
    "reliability": _reliability,
    "rewards": _rewards,
    "policies": _policies,
    "replies": _replies,
    "answers": _answers,
    "mmlu": _mmlu,
    "fits": _fits,
    "mixture": _mixture,
    "speeds": _speeds,
    "oracle": _oracle,
    "models": lambda *_: None,
    "questions": _questions,
}
