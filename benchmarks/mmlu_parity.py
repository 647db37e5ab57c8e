"""Compares our answers with lm-evaluation-harness, question by question, on models of random weights.

Both sides run offline on the CPU in float32, on MMLU's CSV files. For each architecture and each
formulation it compares prompts, predictions, log-likelihoods, and every accuracy and standard error of
the harness's results JSON. Any difference ends the script with status 1.

    python benchmarks/mmlu_parity.py --data MMLU --lm-eval ENVIRONMENT/bin/lm_eval --work FOLDER

The harness's output is stored in the work folder and reused while its inputs are the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from expertchat.answers.artifact import LOGPROBS, score_answers
from expertchat.answers.asking import answer_questions, read_asked
from expertchat.answers.prompts import answer_texts, prompt
from expertchat.engine.interface import Source
from expertchat.engine.opening import open_engine
from expertchat.errors import UserError
from expertchat.mmlu.harness import harness_json
from expertchat.questions.artifact import question_path, read_questions
from expertchat.settings.mmlu import Asking
from expertchat.settings.models import Load
from harness import FOLDERS, VERSION, Harness, Run, read_rows, read_run, run_harness, subjects_of
from parity_models import ARCHITECTURES, PARTED, build_model
from record import markdown_table, record

NEAR = 1e-5  # two answers this close are a near-tie: marked in the list, still counted as changed
SHOTS = 5


@dataclass
class Comparison:
    """The comparison of two runs on the same questions."""

    architecture: str
    formulation: str
    questions: int
    prompts: list[str] = field(default_factory=list)  # questions with different prompts
    changed: list[str] = field(default_factory=list)  # predictions that differ
    largest: float = 0.0  # largest difference of two log-likelihoods
    closest: float = np.inf  # smallest margin of the harness's two best answers, ties left out
    cut: int = 0  # truncated prompts
    figures: int = 0  # figures of the results JSON that were compared
    different: list[str] = field(default_factory=list)  # figures that are not equal

    @property
    def same(self) -> bool:
        return not (self.prompts or self.changed or self.different)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    try:
        compared = list(compare_all(arguments))
    except UserError as error:
        sys.exit(f"mmlu_parity: {error}")
    body = f"{table(compared)}\n\n{explanation(arguments)}"
    print("\n" + body)
    if arguments.record:
        record("Parity with lm-evaluation-harness", "benchmarks/mmlu_parity.py", body)
    sys.exit(0 if all(comparison.same for comparison in compared) else 1)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="{dev,val,test}/<subject>_<split>.csv")
    parser.add_argument("--lm-eval", type=Path, required=True, help=f"the program of lm_eval {VERSION}")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--formulations", nargs="+", choices=list(FOLDERS), default=list(FOLDERS))
    parser.add_argument("--limit", type=int, help="questions per subject; default: all")
    parser.add_argument("--cloze-limit", type=int, help="the same for cloze, which takes longest")
    parser.add_argument("--work", type=Path, help="folder for models and outputs; default: temporary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    return parser.parse_args()


def limit_of(arguments: argparse.Namespace, formulation: str) -> int | None:
    """Questions per subject, None for all."""
    special = arguments.cloze_limit if formulation == "cloze" else None
    return special or arguments.limit


def compare_all(arguments: argparse.Namespace):
    """Yields a comparison for each architecture and formulation."""
    harness = Harness(arguments.lm_eval)
    if harness.version != VERSION:
        raise UserError(f"{arguments.lm_eval} is version {harness.version}; version {VERSION} is needed")
    work = (arguments.work or Path(tempfile.mkdtemp())).resolve()
    for architecture in arguments.architectures:
        model = work / "models" / architecture
        if not model.exists():
            part = model.with_name(f"{architecture}.part")
            build_model(architecture, arguments.data, part)
            part.rename(model)
        for formulation in arguments.formulations:
            began, limit = time.perf_counter(), limit_of(arguments, formulation)
            out = run_harness(
                harness, model, arguments.data, formulation, work, shots=SHOTS, limit=limit
            )
            run, theirs = read_run(out, formulation), time.perf_counter() - began
            began = time.perf_counter()
            found = compare(architecture, model, arguments.data, formulation, limit, run)
            ours = time.perf_counter() - began
            print(
                f"{architecture} {formulation}: {found.questions:,} questions, "
                f"{len(found.changed)} changed, largest difference {found.largest:.1e}; "
                f"harness {theirs:.0f} s, ours {ours:.0f} s",
                flush=True,
            )
            for what in (found.prompts, found.changed, found.different):
                print("".join(f"  {line}\n" for line in what[:20]), end="")
                print(f"  and {len(what) - 20} more\n" if len(what) > 20 else "", end="", flush=True)
            yield found


def compare(
    architecture: str, model: Path, data: Path, formulation: str, limit: int | None, run: Run
) -> Comparison:
    """Asks the model through the library and compares its answers with the harness's run."""
    asking = Asking(
        formulation=formulation, normalization="none", shots=SHOTS, limit=limit, overflow="cut"
    )
    subjects = subjects_of(data)
    engine = open_engine(Source(architecture, model, Load(dtype="float32"), 128))
    with tempfile.TemporaryDirectory() as kept:
        asked = read_asked(data, "test", asking)
        answers = answer_questions(engine, asked, asking, Path(kept), architecture)
    answers = score_answers(answers, asking)
    engine.close()
    found = Comparison(architecture, formulation, len(answers), cut=int(answers["cut"].sum()))
    if sorted(run.samples) != subjects:
        raise UserError("the harness's run and the data have different subjects")
    for subject in subjects:
        compare_prompts(found, data, subject, asking, run)
        compare_answers(found, answers[answers["subject"] == subject], subject, run)
    sizes = {subject: len(read_rows(question_path(data, "test", subject))) for subject in subjects}
    ours = harness_json(answers, architecture, asking.model_dump(), sizes, {})
    compare_figures(found, run.results, ours)
    return found


def compare_prompts(found: Comparison, data: Path, subject: str, asking: Asking, run: Run) -> None:
    """Compares the prompt and the answer texts of each question."""
    shots = read_questions(question_path(data, "dev", subject))[: asking.shots]
    items = read_questions(question_path(data, "test", subject))[: asking.limit]
    for i, (item, sample) in enumerate(zip(items, run.samples[subject], strict=True)):
        ours = prompt(subject, shots, item, asking), answer_texts(item, asking)
        if ours != (sample["prompt"], sample["continuations"]) or sample["doc_id"] != i:
            found.prompts.append(f"{subject} {i}: different prompt")


def compare_answers(found: Comparison, answers: pd.DataFrame, subject: str, run: Run) -> None:
    """Compares predictions and log-likelihoods of one subject."""
    theirs, ours = run.logprobs(subject), answers[LOGPROBS].to_numpy()
    differences = ours - theirs
    if found.formulation == "letter" and found.architecture in PARTED:
        differences -= differences.mean(1, keepdims=True)  # the harness counts the shared "▁" too
    found.largest = max(found.largest, float(np.abs(differences).max()))
    ranked = np.sort(theirs, 1)
    margins = ranked[:, -1] - ranked[:, -2]
    found.closest = min(found.closest, float(margins[margins > 0].min(initial=np.inf)))
    predicted = {"": (theirs.argmax(1), answers["prediction"].to_numpy())}
    if found.formulation == "cloze":
        characters = np.array([[len(a) for a in row] for row in answers[list("ABCD")].to_numpy()])
        pair = (theirs / characters).argmax(1), (ours / characters).argmax(1)
        predicted[" by characters"] = pair
    for kind, (before, after) in predicted.items():
        for i in np.flatnonzero(before != after):
            tie = ", a near-tie" if margins[i] < NEAR and not kind else ""
            found.changed.append(
                f"{subject} {i}{kind}: {'ABCD'[before[i]]} is now {'ABCD'[after[i]]}{tie}: "
                f"{theirs[i].tolist()}, ours {ours[i].tolist()}"
            )


def compare_figures(found: Comparison, theirs: dict, ours: dict) -> None:
    """Compares accuracies and standard errors by subject and group, to the last digit."""
    for name, figures in theirs["results"].items():
        own = ours["results"].get(name.replace("local_", ""), {})
        for key, value in figures.items():
            if not isinstance(value, float):
                continue
            found.figures += 1
            if own.get(key) != value:
                found.different.append(f"{name}, {key}: {value!r}, ours {own.get(key)!r}")


def explanation(arguments: argparse.Namespace) -> str:
    """The explanation of the table."""
    limits = {kind: limit_of(arguments, kind) for kind in arguments.formulations}
    asked = ", ".join(
        f"{kind}: {f'the first {limit} questions per subject' if limit else 'all questions'}"
        for kind, limit in limits.items()
    )
    sentences = [
        f"MMLU's test split, {SHOTS} shots ({asked}), against lm-eval {VERSION} (`hf`, float32, CPU,",
        "batch size 1): `mmlu` for letter, `mmlu_continuation` for cloze. Random weights, 2 layers of",
        "width 32; gpt2 takes 1,024 tokens and mixtral 2,048, and both sides truncate longer prompts.",
        'mixtral\'s tokenizer reads " A" as "▁" and "A", of which only the harness counts the first;',
        "its differences are given without the part that all letters share. A changed prediction is a",
        "different most likely answer, in cloze also by log-likelihood per character. The figures are",
        "acc and acc_norm with their standard errors by subject and group, as in the results JSON.",
    ]
    return " ".join(sentences)


def table(compared: list[Comparison]) -> str:
    """The comparisons as a Markdown table."""
    head = ["model", "formulation", "questions", "cut", "predictions changed"]
    head += [
        "largest difference in log-likelihood",
        "closest two answers",
        "figures equal to the last digit",
    ]
    rows = [
        [
            c.architecture,
            c.formulation,
            f"{c.questions:,}",
            f"{c.cut:,}",
            str(len(c.changed)),
            f"{c.largest:.1e}",
            f"{c.closest:.1e}",
            f"{c.figures - len(c.different)} of {c.figures}",
        ]
        for c in compared
    ]
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
