"""Writes tests/lm_eval_results.json: made-up answers, and lm-evaluation-harness's results for them.

The harness's own dummy model gives random log-likelihoods on made-up questions under MMLU's task names.
Run it with the Python in which lm-eval (0.4.13) is installed: python tests/write_lm_eval_results.py
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

SUBJECTS = {
    "abstract_algebra": 7,
    "anatomy": 5,
    "machine_learning": 3,
    "business_ethics": 6,
    "virology": 4,
    "econometrics": 3,
    "sociology": 8,
    "formal_logic": 5,
    "philosophy": 2,
    "world_religions": 9,
}
WORDS = ["oak", "ash", "birch", "hazel", "willow", "rowan", "elm", "alder", "hornbeam", "lime"]
TASKS = Path(lm_eval.__file__).parent / "tasks/mmlu"
KEYS = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")


def questions(subject: str, count: int) -> list[dict]:
    """Made-up questions in the hub's schema."""
    draw = random.Random(subject)
    return [
        {
            "question": f"Which tree stands at place {number}?",
            "subject": subject,
            "choices": [" ".join(draw.sample(WORDS, draw.randint(1, 4))) for _ in range(4)],
            "answer": draw.randrange(4),
        }
        for number in range(count)
    ]


def write_tasks(kind: str, out: Path) -> None:
    """Writes the package's own task files of SUBJECTS, changed to use the made-up questions."""
    for source in (TASKS / kind).iterdir():
        subject = source.stem.removeprefix("mmlu_")
        if source.name.startswith("_"):
            text = source.read_text().replace("dataset_path: cais/mmlu", "dataset_path: json")
            (out / source.name).write_text(text)
        elif subject in SUBJECTS:
            task = yaml.safe_load(source.read_text())
            del task["dataset_name"]
            data = out / f"{subject}.jsonl"
            rows = questions(subject, SUBJECTS[subject])
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
            task["dataset_kwargs"] = {"data_files": {"dev": str(data), "test": str(data)}}
            (out / source.name).write_text(yaml.safe_dump(task))


def evaluate(kind: str, task: str, limit: int | None) -> dict:
    """The harness's results, and each question with the log-likelihoods that it used."""
    out = Path(tempfile.mkdtemp())
    write_tasks(kind, out)
    manager = TaskManager(include_path=str(out), include_defaults=False)
    found = lm_eval.simple_evaluate(
        "dummy", tasks=[task], num_fewshot=2, limit=limit, task_manager=manager, log_samples=True
    )
    shutil.rmtree(out)
    answers = [
        sample["doc"]
        | {"index": sample["doc_id"], "logprobs": [pair[0] for pair in sample["filtered_resps"]]}
        for samples in found["samples"].values()
        for sample in samples
    ]
    return {"answers": answers} | {key: found[key] for key in KEYS}


def main() -> None:
    random.seed(0)
    found = {
        "letter": evaluate("default", "mmlu", None),
        "cloze": evaluate("continuation", "mmlu_continuation", 5),
    }
    path = Path(__file__).parent / "lm_eval_results.json"
    path.write_text(json.dumps(found, indent=None, separators=(",", ":"), default=float) + "\n")


if __name__ == "__main__":
    main()
