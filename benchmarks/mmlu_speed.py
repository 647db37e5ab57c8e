"""Compares MMLU's speed with lm-evaluation-harness 0.4.13 on the same questions, models and machine.

`python benchmarks/mmlu_speed.py --lm-eval PATH_OF_lm_eval --data DIR`, where DIR holds MMLU as CSV files
({dev,val,test}/<subject>_<split>.csv). Models have random weights and a tokenizer trained on
MMLU's dev and val texts, and run in float32 on the CPU. Each side runs in its own process; the time from
prompt texts to log-likelihoods is measured, without start-up and loading. The harness runs at several
batch sizes, and its fastest one counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import contenders
from harness import ENDINGS, Harness, read_rows, subjects_of, write_tasks

HERE = Path(__file__).resolve().parent
VOCABULARY = 32_000
SIZES = {  # hidden, intermediate, layers, heads
    "20M": (256, 688, 6, 8),
    "110M": (768, 2048, 8, 12),
}
MEASURED = ("seconds", "cpu_seconds", "tokens", "peak_bytes")
MIXED = ("anatomy", "high_school_biology", "philosophy", "virology")


@dataclass(frozen=True)
class Case:
    """One row of the table. `least` and `aim`: the target ratio."""

    name: str
    size: str
    subjects: tuple[str, ...]
    limit: int
    formulation: str
    least: str
    aim: str


CASES = {
    "small": Case("20M, 4 subjects x 40", "20M", MIXED, 40, "letter", "10", "20"),
    "large": Case("110M, 4 subjects x 40", "110M", MIXED, 40, "letter", "4", "6"),
    "long": Case(
        "20M, high_school_european_history",
        "20M",
        ("high_school_european_history",),
        40,
        "letter",
        "10",
        "15",
    ),
    "cloze": Case("20M, 4 subjects x 40, cloze", "20M", MIXED, 40, "cloze", "", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm-eval", type=Path, help="the lm_eval program; its environment is used")
    parser.add_argument("--data", type=Path, help="MMLU's folder")
    parser.add_argument("--work", type=Path, help="folder for models, tasks and finished cases")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 8], help="of the harness")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="questions per subject, for a quick run")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print("\n" + json.dumps(ours(json.loads(arguments.job))))
        return
    work = arguments.work or Path(tempfile.mkdtemp())
    body = report(arguments, work)
    print(body)
    if arguments.record:
        from record import record

        record("MMLU against lm-evaluation-harness", "benchmarks/mmlu_speed.py", body)


def questions_of(data: Path, subject: str, limit: int, formulation: str) -> list:
    """The engine's questions about a subject, with the harness's prompts."""
    from expertchat.answers.prompts import answer_texts, prompt
    from expertchat.engine.interface import Question
    from expertchat.questions.artifact import question_path, read_questions, read_shots
    from expertchat.settings.mmlu import Asking

    asking = Asking(formulation=formulation)
    shots = read_shots(data, subject, asking.shots)
    items = read_questions(question_path(data, "test", subject))[:limit]
    return [Question(prompt(subject, shots, x, asking), answer_texts(x, asking)) for x in items]


def build_tokenizer(data: Path, folder: Path):
    """A byte-level tokenizer trained on the dev and val texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [
        "\n".join(row)
        for split in ("dev", "val")
        for subject in subjects_of(data)
        for row in read_rows(data / split / f"{subject}_{split}.csv")
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def build_models(data: Path, work: Path, sizes: Sequence[str]) -> None:
    """Random Llamas, peaked enough to tell answers apart, each in a folder named after its size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(data, work)
    for name in sizes:
        hidden, intermediate, layers, heads = SIZES[name]
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=8192,
            initializer_range=0.05,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(work / name)
        tokenizer.save_pretrained(work / name)


def run(command: Sequence[str], threads: int) -> dict:
    """`contenders.run`, with this number of threads and without a network."""
    environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    return contenders.run(command, environment)


def ours(job: dict) -> dict:
    """This project's side of a case: seconds, tokens and predictions. Runs in its own process."""
    import torch
    from expertchat.engine.local import LocalEngine
    from expertchat.settings.models import Load

    torch.set_num_threads(job["threads"])
    engine = LocalEngine(Path(job["model"]), Load(), 128)
    data = Path(job["data"])
    groups = [questions_of(data, s, job["limit"], job["formulation"]) for s in job["subjects"]]
    tokens = 0

    def count(_, arguments, kwargs) -> None:
        nonlocal tokens
        tokens += kwargs["input_ids"].numel()

    engine.model.model.register_forward_pre_hook(count, with_kwargs=True)
    began, cpu = time.perf_counter(), time.process_time()
    found = engine.answer_logprobs(groups)
    times = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    predictions = {
        task: [int(row.argmax()) for row in group]
        for task, group in zip(job["tasks"], found, strict=True)
    }
    return times | {"tokens": tokens, "predictions": predictions}


def medians(runs: Iterable[dict]) -> dict[str, float]:
    """The median of each figure over some runs."""
    runs = list(runs)
    return {name: statistics.median(each[name] for each in runs) for name in MEASURED}


def compare(case: Case, arguments: argparse.Namespace, work: Path, harness: Harness) -> list[str]:
    """The case's row: alternating runs of both sides, after one harness run at each batch size."""
    formulation, limit = case.formulation, min(case.limit, arguments.limit or case.limit)
    folder = Path(tempfile.mkdtemp(dir=work)) / "tasks"
    write_tasks(harness, arguments.data, formulation, folder)
    tasks = [f"local_mmlu_{subject}{ENDINGS[formulation]}" for subject in case.subjects]
    shared = {"model": str(work / case.size), "threads": arguments.threads, "limit": limit}
    shared |= {"tasks": tasks}
    asked = shared | {"data": str(arguments.data), "subjects": case.subjects}
    asked |= {"formulation": formulation}
    python = harness.program.parent / "python"
    mine = [sys.executable, __file__, "--job", json.dumps(asked)]

    def theirs(batch_size: int) -> list[str]:
        job = shared | {"folder": str(folder), "batch_size": batch_size}
        return [str(python), str(HERE / "mmlu_speed_harness.py"), json.dumps(job)]

    run(mine, arguments.threads)  # so that files are in the page cache
    tried = {size: run(theirs(size), arguments.threads) for size in arguments.batch_sizes}
    best = min(tried, key=lambda size: tried[size]["seconds"])
    pairs = [
        (run(mine, arguments.threads), run(theirs(best), arguments.threads))
        for _ in range(arguments.repeats)
    ]
    for us, them in pairs:
        if us["predictions"] != them["predictions"]:
            raise SystemExit(f"{case.name}: predictions differ")
    number = sum(map(len, pairs[0][0]["predictions"].values()))
    ratios = [them["seconds"] / us["seconds"] for us, them in pairs]
    cpu = [them["cpu_seconds"] / us["cpu_seconds"] for us, them in pairs]
    us, them = medians(us for us, _ in pairs), medians(them for _, them in pairs)
    return [
        case.name,
        f"{number / us['seconds']:.1f}",
        f"{number / them['seconds']:.1f} (batch size {best})",
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        f"{statistics.median(cpu):.1f}",
        f"at least {case.least}, aim {case.aim}" if case.least else "",
        f"{us['tokens'] / number:.0f}, {them['tokens'] / number:.0f}, "
        f"{them['tokens'] / us['tokens']:.1f}",
        f"{us['peak_bytes'] / 2**20:.0f}, {them['peak_bytes'] / 2**20:.0f}",
    ]


def report(arguments: argparse.Namespace, work: Path) -> str:
    """The table and its explanation."""
    from record import markdown_table

    cases = [CASES[name] for name in arguments.cases]
    sizes = [size for size in SIZES if any(case.size == size for case in cases)]
    build_models(arguments.data, work, sizes)
    harness = Harness(arguments.lm_eval.absolute())
    head = [
        "random Llama, questions",
        "questions/s, this project",
        "questions/s, harness",
        "ratio, median (lowest to highest)",
        "ratio of CPU time",
        "target",
        "tokens per question: this project, harness, ratio",
        "peak memory, MiB: this project, harness",
    ]
    rows = []
    for case in cases:
        line = work / f"{case.size}-{case.subjects[0]}-{case.formulation}.json"
        if not line.exists():  # an interrupted run resumes after its last case
            line.write_text(json.dumps(compare(case, arguments, work, harness)), encoding="utf-8")
        rows.append(json.loads(line.read_text(encoding="utf-8")))
        print(*rows[-1], sep="; ", flush=True)
    return markdown_table(head, rows) + (
        f"\n\nlm-evaluation-harness {harness.version}, hf, float32, at the fastest of the batch sizes "
        f"{', '.join(map(str, arguments.batch_sizes))}; {arguments.threads} threads each, "
        f"{arguments.repeats} alternating runs of each side, five shots. Timed from texts to "
        "log-likelihoods, without start-up and loading; all predictions are equal. The ratio of tokens "
        "is what reading fewer tokens could gain by itself; the harness also projects every position to "
        "the vocabulary, not only those that are needed."
    )


if __name__ == "__main__":
    main()
