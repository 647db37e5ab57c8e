"""Results of a model in the format of lm-evaluation-harness's results JSON (version 0.4.13).

Programs that read the harness's files can read these: keys, task and group names and rounding are the
same. The harness's task names are used only for the harness's own prompts. Other prompt styles get a
suffix with their name, and `expertchat.deviations` lists everything else that differs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat import __version__
from expertchat.answers.artifact import LOGPROBS
from expertchat.mmlu.artifact import SCORES
from expertchat.mmlu.categories import CATEGORIES, HARNESS
from expertchat.mmlu.scores import by_subject, pooled
from expertchat.pipeline.store import read_manifest
from expertchat.questions.artifact import LETTERS, QUESTIONS
from expertchat.records import read_json, without_nan

SCHEMA = 1  # of scores.json
TASK_VERSION, GROUP_VERSION = 1.0, "2"
CHOICES = "".join(f"{x}. {{{{choices[{k}]}}}}\n" for k, x in enumerate(LETTERS))
TEXTS: dict[str, dict[str, str | list[str]]] = {
    "letter": {
        "doc_to_text": f"{{{{question.strip()}}}}\n{CHOICES}Answer:",
        "doc_to_target": "answer",
        "doc_to_choice": list(LETTERS),
    },
    "cloze": {
        "doc_to_text": "Question: {{question.strip()}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
    },
}
KINDS = {"letter": "multiple choice questions", "cloze": "questions"}


class Names:
    """Names of tasks and groups: those of the harness's `mmlu`, or of `mmlu_continuation` for cloze."""

    def __init__(self, style: str, formulation: str) -> None:
        self.cloze = formulation == "cloze"
        self.style = "" if style == "harness" else f"_{style}"
        self.root = ("mmlu_continuation" if self.cloze else "mmlu") + self.style

    def task(self, subject: str) -> str:
        return f"mmlu_{subject}" + ("_continuation" if self.cloze else "") + self.style

    def group(self, category: str) -> str:
        if self.cloze:
            return f"{self.root}::{category.replace('_', ' ')}"
        return f"mmlu_{category}{self.style}"

    def task_alias(self, subject: str) -> str:
        return self.task(subject) if self.cloze else subject

    def group_alias(self, category: str) -> str:
        return self.group(category) if self.cloze else category.replace("_", " ")

    def root_alias(self) -> str:
        kinds = [*(["continuation"] if self.cloze else []), *([self.style[1:]] if self.style else [])]
        return f"mmlu ({', '.join(kinds)})" if kinds else "mmlu"

    def version(self, name: str, tasks: Collection[str]) -> float | str:
        if name in tasks:
            return TASK_VERSION
        return "N/A" if self.cloze and name != self.root else GROUP_VERSION


def harness_right(answers: pd.DataFrame, formulation: str) -> dict[str, pd.Series]:
    """Which answers are right, by metric: `acc` takes the likeliest answer; for cloze, `acc_norm` takes
    the one with the greatest log-likelihood per character of the choice."""
    logprobs = answers[LOGPROBS].to_numpy()
    found = {"acc": logprobs}
    if formulation == "cloze":
        lengths = np.array([answers[x].str.len() for x in LETTERS], dtype=float).T
        found["acc_norm"] = logprobs / lengths
    predictions = {name: pd.Series(scores.argmax(1), answers.index) for name, scores in found.items()}
    return {name: prediction == answers["gold"] for name, prediction in predictions.items()}


def deviations(answers: pd.DataFrame, section: Mapping[str, Any]) -> list[str]:
    """Why the figures differ from lm-evaluation-harness's for its task; empty if they do not."""
    found = []
    if section["style"] != "harness":
        found.append(f"prompts in style {section['style']}")
    shortened = int(answers["shortened"].sum())
    if section["overflow"] != "cut" and shortened:
        found.append(f"{shortened} prompts lost shots; the harness cuts tokens from the left instead")
    beyond = int(answers["beyond_harness"].sum())
    if beyond:
        found.append(
            f"{beyond} prompts have more tokens than the harness reads of this model, whose "
            "configuration names no limit that it knows; it cuts them from the left"
        )
    missing = set(HARNESS) - set(answers["subject"])
    if missing:
        found.append(f"{len(missing)} of MMLU's {len(HARNESS)} subjects were not asked")
    return found


def harness_json(
    answers: pd.DataFrame,
    model: str,
    section: Mapping[str, Any],
    sizes: Mapping[str, int],
    ours: Mapping[str, Any],
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The results JSON of one model.

    `section`: the settings `Asking`; `sizes`: number of questions per subject before `limit`; `ours`:
    the content of key "expertchat", in addition to the deviations; `arguments`: which weights were
    loaded and how. Subjects that are not MMLU's are in a group `mmlu_uncategorised`, which is not part
    of `mmlu`.
    """
    names = Names(section["style"], section["formulation"])
    metrics = {
        metric: by_subject(answers, right)
        for metric, right in harness_right(answers, section["formulation"]).items()
    }
    subjects = list(metrics["acc"])
    members = {
        category: [s for s in subjects if HARNESS.get(s, "uncategorised") == category]
        for category in (*CATEGORIES, "uncategorised")
    }
    members = {category: found for category, found in members.items() if found}
    tasks = {names.task(s): _task(names, s, metrics) for s in subjects}
    groups = {
        names.group(category): _group(
            names.group(category), names.group_alias(category), [metrics["acc"][s] for s in found]
        )
        for category, found in members.items()
    }
    subtasks = {names.group(c): [names.task(s) for s in found] for c, found in members.items()}
    known = [s for s in subjects if s in HARNESS]
    if known:
        groups[names.root] = _group(names.root, names.root_alias(), [metrics["acc"][s] for s in known])
        subtasks = {names.root: [names.group(c) for c in members if c in CATEGORIES]} | subtasks
    listed = sorted([*tasks, *(name for name in groups if name != names.root)])  # the harness omits root
    return {
        "results": tasks | groups,
        "groups": groups,
        "group_subtasks": subtasks,
        "configs": {names.task(s): _config(names, s, section) for s in sorted(subjects)},
        "versions": {name: names.version(name, tasks) for name in sorted([*tasks, *groups])},
        "n-shot": dict.fromkeys(listed, section["shots"]),
        "higher_is_better": {name: dict.fromkeys(metrics, True) for name in listed},
        "n-samples": {
            names.task(s): {"original": sizes[s], "effective": metrics["acc"][s]["questions"]}
            for s in subjects
        },
        "config": {"model": model, "model_args": arguments or {}, "limit": section["limit"]},
        "model_name": model,
        "expertchat": {"deviations": deviations(answers, section), **ours},
    }


def _stderr(found: Mapping[str, Any]) -> float | str:
    """The harness writes "N/A" for a task with a single question."""
    return "N/A" if math.isnan(found["stderr"]) else found["stderr"]


def _task(names: Names, subject: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": names.task(subject),
        "alias": names.task_alias(subject),
        "sample_len": metrics["acc"][subject]["questions"],
    }
    for metric, subjects in metrics.items():
        found[f"{metric},none"] = subjects[subject]["accuracy"]
        found[f"{metric}_stderr,none"] = _stderr(subjects[subject])
    return found


def _group(name: str, alias: str, subjects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = pooled(subjects)
    return {
        "alias": alias,
        "name": name,
        "sample_len": found["questions"],
        "acc,none": found["accuracy"],
        "acc_stderr,none": _stderr(found),
        "sample_count": {"acc,none": found["questions"]},
    }


def _config(names: Names, subject: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """How a task was asked. The prompt's templates are included only if they are the harness's own."""
    found: dict[str, Any] = {
        "task": names.task(subject),
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": section["shots"],
        "output_type": "multiple_choice",
        "repeats": 1,
        "metadata": {"version": TASK_VERSION, "style": section["style"]},
    }
    if section["style"] == "harness":
        kind, about = KINDS[section["formulation"]], subject.replace("_", " ")
        found |= TEXTS[section["formulation"]] | {
            "description": f"The following are {kind} (with answers) about {about}.\n\n",
            "target_delimiter": " ",
            "fewshot_delimiter": "\n\n",
        }
    return found


def _measured(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Which weights were used, with which adapter, and how they were loaded."""
    recipe = manifest["recipe"]
    (load,) = recipe["settings"]["load"].values()
    inputs = recipe["inputs"]
    return {"load": load, "artifact": inputs["model"], "policy": inputs.get("policy")}


def result_files(
    found: Mapping[str, Any],
    answers: Mapping[str, pd.DataFrame],
    section: Mapping[str, Any],
    round_number: int | None,
    questions: Path,
    folders: Mapping[str, Sequence[Path]],
) -> dict[str, dict[str, Any]]:
    """The files of stage mmlu by name: scores.json, and results-<model>.json for each model.

    `found`: the result of `mmlu.scores.scores`; `answers`: {model: answers}; `folders`: {model: its
    artifacts of stage answers}; `questions`: artifact of stage questions.
    """
    described = read_json(questions / QUESTIONS)
    asked = {
        "round": round_number,
        "settings": dict(section),
        "questions": {key: described[key] for key in ("checksum", "checksums")},
    }
    files = {}
    for model, parts in folders.items():
        manifests = [read_manifest(folder) for folder in parts]
        ours = asked | {
            "versions": {"expertchat": __version__},
            "answers": [
                {"artifact": f"answers/{folder.name}", "versions": manifest["versions"]}
                for folder, manifest in zip(parts, manifests, strict=True)
            ],
            "scores": found["models"][model],
        }
        arguments = next(map(_measured, manifests), {})  # the same for all shards of a model
        sizes = described["counts"]["test"]
        results = harness_json(answers[model], model, section, sizes, ours, arguments)
        files[f"results-{model}.json"] = without_nan(results)
    differing = {model: deviations(table, section) for model, table in answers.items()}
    head = {"schema": SCHEMA, **asked, "deviations": differing}
    return {SCORES: without_nan(head | dict(found)), **files}
