"""Multiple-choice questions in MMLU's layout: {dev,val,test}/<subject>_<split>.csv, no header.

Each row: question, A, B, C, D, letter of the right answer. Read by the csv module, as pandas would
turn answers such as "None" into missing values.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.errors import UserError

LETTERS = "ABCD"
SPLITS = ("dev", "val", "test")


@dataclass(frozen=True)
class MultipleChoice:
    """One question with four answers; `gold` is the index of the right one."""

    question: str
    answers: tuple[str, str, str, str]
    gold: int


def question_path(folder: Path, split: str, subject: str) -> Path:
    """The file of a subject's questions."""
    return folder / split / f"{subject}_{split}.csv"


def list_subjects(folder: Path) -> list[str]:
    """Subjects that have a test file, sorted."""
    return sorted(p.name.removesuffix("_test.csv") for p in folder.glob("test/*_test.csv"))


def read_questions(path: Path) -> list[MultipleChoice]:
    """All questions of a file. Raises UserError with file and line for a malformed one."""
    questions = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                questions.append(_question(row, f"{path}, line {reader.line_num}"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    return questions


def _question(row: Sequence[str], place: str) -> MultipleChoice:
    if len(row) != 6:
        raise UserError(f"{place}: {len(row)} columns, where 6 are needed (question, A to D, letter)")
    question, *answers, letter = row
    if not question.strip():
        raise UserError(f"{place}: the question is empty")
    if letter.strip() not in LETTERS or not letter.strip():
        raise UserError(f"{place}: the right answer is {letter!r}, where A, B, C or D is needed")
    return MultipleChoice(question.strip(), tuple(answers), LETTERS.index(letter.strip()))


def copy_questions(source: Path, subjects: Sequence[str], out: Path) -> None:
    """Checks the files of `subjects` (all, where empty) and copies them into an artifact."""
    for subject in subjects or list_subjects(source):
        for split in SPLITS:
            path = question_path(source, split, subject)
            if split == "val" and not path.exists():
                continue  # only fitted mixtures need it
            read_questions(path)
            place = question_path(out, split, subject)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
