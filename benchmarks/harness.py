"""Runs lm-evaluation-harness offline on MMLU's CSV files: task files, the run, and its logs.

The task files are those of the installed package (`mmlu` and `mmlu_continuation`) with three changes:
questions come from JSON lines written here, subjects missing from the data are left out, and all names
begin with `local_`, so that no task of the package is used by mistake.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from expertchat.errors import UserError

VERSION = "0.4.13"  # the version that the recorded figures refer to
FOLDERS = {"letter": "default", "cloze": "continuation"}  # below the package's tasks/mmlu
ENDINGS = {"letter": "", "cloze": "_continuation"}  # of the package's task names
GROUPS = {"letter": "local_mmlu", "cloze": "local_mmlu_continuation"}


@dataclass(frozen=True)
class Harness:
    """An installed lm-evaluation-harness; `program` is its `lm_eval`."""

    program: Path

    @cached_property
    def _found(self) -> list[str]:
        code = "import lm_eval, importlib.metadata as m; print(m.version('lm_eval'), lm_eval.__file__)"
        python = self.program.parent / "python"
        run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if run.returncode:
            raise UserError(f"{python}: lm_eval cannot be imported: {run.stderr.strip()[-300:]}")
        return run.stdout.split(maxsplit=1)

    @property
    def version(self) -> str:
        """The version of lm_eval."""
        return self._found[0]

    @property
    def tasks(self) -> Path:
        """The package's task files for MMLU."""
        return Path(self._found[1].strip()).parent / "tasks/mmlu"


@dataclass(frozen=True)
class Run:
    """The harness's output: its results JSON, and the logged questions by subject.

    A logged question has `doc_id` (its row), `prompt`, `continuations` [4], `logprobs` float64 [4].
    """

    results: dict
    samples: dict[str, list[dict]]

    def logprobs(self, subject: str) -> np.ndarray:
        """Log-likelihoods [questions, 4] of a subject."""
        return np.array([sample["logprobs"] for sample in self.samples[subject]])


def subjects_of(data: Path) -> list[str]:
    """All subjects of a folder in MMLU's layout, sorted."""
    return sorted(path.name.removesuffix("_test.csv") for path in data.glob("test/*_test.csv"))


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file as they are, neither stripped nor checked."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_tasks(harness: Harness, data: Path, formulation: str, out: Path) -> str:
    """Writes task files and questions for the harness; returns the task name of the complete group."""
    (out / "questions").mkdir(parents=True)
    folder, ending = harness.tasks / FOLDERS[formulation], ENDINGS[formulation]
    for path in sorted(folder.glob("*.yaml")):
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "group" in task:
            _write(out / path.name, _renamed(task))
            continue
        subject = task["task"].removeprefix("mmlu_").removesuffix(ending)
        if not (data / "test" / f"{subject}_test.csv").exists():
            continue
        base = yaml.safe_load((folder / task.pop("include")).read_text(encoding="utf-8"))
        task.pop("dataset_name", None)
        task |= {"task": f"local_{task['task']}", "tag": f"local_{task['tag']}"}
        task["dataset_path"] = "json"
        files = {split: str(_write_questions(data, split, subject, out)) for split in ("dev", "test")}
        task["dataset_kwargs"] = {"data_files": files}
        _write(out / path.name, base | task)
    return GROUPS[formulation]


def _renamed(group: dict) -> dict:
    """A group's definition with `local_` before its own name and those of its members."""
    members = [_renamed(m) if isinstance(m, dict) else f"local_{m}" for m in group["task"]]
    return group | {"group": f"local_{group['group']}", "task": members}


def _write(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_questions(data: Path, split: str, subject: str, out: Path) -> Path:
    """A split's questions as JSON lines in the schema of cais/mmlu."""
    path = out.resolve() / "questions" / f"{subject}_{split}.jsonl"
    lines = [
        json.dumps({"question": q, "subject": subject, "choices": c, "answer": "ABCD".index(gold)})
        for q, *c, gold in read_rows(data / split / f"{subject}_{split}.csv")
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def digest(*parts: str | Path) -> str:
    """A short hash of texts and of all files of folders."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode() + b"\0")
            continue
        for path in sorted(p for p in part.rglob("*") if p.is_file()):
            total.update(str(path.relative_to(part)).encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def run_harness(
    harness: Harness,
    model: Path,
    data: Path,
    formulation: str,
    work: Path,
    *,
    shots: int = 5,
    limit: int | None = None,
    batch_size: int = 1,
) -> Path:
    """Runs the harness on the CPU in float32, unless `work` holds its output for the same inputs.

    Returns the folder of its output; the log is stored beside that folder. Raises UserError if it fails.
    """
    key = digest(harness.version, formulation, str(shots), str(limit), model, data)
    out = work / "harness" / f"{model.name}-{formulation}-{key}"
    if out.exists():
        return out
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    tasks = part / "tasks"
    group = write_tasks(harness, data, formulation, tasks)
    command = [harness.program, "run", "--model", "hf", "--device", "cpu", "--tasks", group]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--include_path", tasks]
    command += ["--num_fewshot", shots, "--batch_size", batch_size]
    command += ["--log_samples", "--output_path", part]
    command += ["--limit", limit] if limit else []
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work.resolve() / "datasets")}
    with (work / "harness" / f"{out.name}.log").open("w", encoding="utf-8") as log:
        run = subprocess.run(
            [str(word) for word in command],
            env=os.environ | offline,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if run.returncode:
        raise UserError(f"lm_eval failed; see the end of {log.name}")
    part.rename(out)
    return out


def read_run(folder: Path, formulation: str) -> Run:
    """Reads the output of `run_harness`."""
    (results,) = folder.rglob("results_*.json")
    ending, samples = ENDINGS[formulation], {}
    for path in sorted(folder.rglob("samples_*.jsonl")):
        name = path.name.removeprefix("samples_local_mmlu_").rsplit("_", 1)[0].removesuffix(ending)
        with path.open(encoding="utf-8") as file:
            samples[name] = [_sample(json.loads(line)) for line in file]
    return Run(json.loads(results.read_text(encoding="utf-8")), samples)


def _sample(logged: dict) -> dict:
    arguments = list(logged["arguments"].values())
    return {
        "doc_id": logged["doc_id"],
        "prompt": arguments[0]["arg_0"],
        "continuations": [argument["arg_1"] for argument in arguments],
        "logprobs": [float(response[0]) for response in logged["filtered_resps"]],
    }
