"""Multiple-choice questions in MMLU's layout: {dev,val,test}/<subject>_<split>.csv, no header.

Each row: question, A, B, C, D, letter of the right answer. Files are read with the csv module, because
pandas would turn answers such as "None" into missing values. No row is skipped: a row that is not a
valid question is an error that names file and line. This module imports nothing heavy, because planning
uses it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.errors import UserError
from expertchat.foreign import read_text
from expertchat.splits import SPLITS

QUESTIONS = "questions.json"  # counts, overlaps and checksums
LETTERS = "ABCD"
HEADER_WORDS = {"question", "answer", "label", "gold", "target", "correct", "correct answer"}


@dataclass(frozen=True)
class MultipleChoice:
    """One question with four answers, exactly as in the file, including outer white space. `gold` is the
    index (0 to 3) of the right answer."""

    question: str
    answers: tuple[str, str, str, str]
    gold: int


def question_path(folder: Path, split: str, subject: str) -> Path:
    """The file of a subject's questions."""
    return folder / split / f"{subject}_{split}.csv"


def list_subjects(folder: Path) -> list[str]:
    """Subjects that have a test file, sorted."""
    files = (path.name for path in folder.glob("test/*_test.csv"))
    return sorted(name.removesuffix("_test.csv") for name in files if not name.startswith("."))


def read_questions(path: Path) -> list[MultipleChoice]:
    """All questions of a file in UTF-8, with or without a byte order mark.

    Raises UserError with file and line for a row that does not have six cells, an empty question or
    choice, a letter other than A to D, NUL bytes, another encoding, and unbalanced quotation marks.
    """
    questions = [parse_question(row, f"{path}, line {line}", line) for line, row in _rows(path)]
    if not questions:
        raise UserError(f"{path}: the file is empty")
    return questions


def read_shots(folder: Path, subject: str, shots: int) -> list[MultipleChoice]:
    """The first `shots` questions of a subject's dev file, which prompts show with their answers.

    With 0 shots, no file is read. Raises UserError if the file is missing or has fewer questions.
    """
    if not shots:
        return []
    path = question_path(folder, "dev", subject)
    if not path.exists():
        raise UserError(f"{path}: no such file, but mmlu.shots is {shots}; add the file, or set it to 0")
    questions = read_questions(path)
    if len(questions) < shots:
        raise UserError(
            f"{path}: {len(questions)} questions, but mmlu.shots is {shots}; add questions, or lower it"
        )
    return questions[:shots]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row begins, cells) of each row."""
    reader = csv.reader(io.StringIO(read_text(path, same_line_ends=True), newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = "a quotation mark is never closed, or a closing one is followed by text"
            raise UserError(f"{path}, line {line}: {reason} ({error})") from None
        if row is None:
            return
        if any(_contains_a_row(cell) for cell in row):
            raise UserError(
                f"{path}, line {line}: a cell contains complete rows, down to line {reader.line_num}; "
                "is a closing quotation mark missing?"
            )
        yield line, row


def _contains_a_row(cell: str) -> bool:
    """Whether a line of a cell is itself a row, as happens after a stray quotation mark."""
    lines = cell.splitlines()
    if len(lines) < 2:
        return False
    return any(len(row) == 6 and row[5].strip() in tuple(LETTERS) for row in csv.reader(lines))


def parse_question(row: Sequence[str], place: str, number: int) -> MultipleChoice:
    """The question of a row. `place` names it in errors; `number`: its line, or 0 if it is not from a
    file.

    Raises UserError if the row is not a valid question.
    """
    if not any(cell.strip() for cell in row):
        raise UserError(f"{place}: the line is blank")
    hint = ""
    if number == 1 and {row[0].strip().lower(), row[-1].strip().lower()} & HEADER_WORDS:
        hint = "; this looks like a header, and files in this layout have none"
    if len(row) != 6:
        needed = "6 are needed (question, A to D, letter)"
        raise UserError(f"{place}: {len(row)} columns, but {needed}{hint}")
    question, a, b, c, d, letter = row
    answers = (a, b, c, d)
    if not question.strip():
        raise UserError(f"{place}: the question is empty")
    for name, answer in zip(LETTERS, answers, strict=True):
        if not answer.strip():
            raise UserError(f"{place}: choice {name} is empty")
    if letter.strip() not in tuple(LETTERS):
        raise UserError(f"{place}: the right answer is {letter!r}, not A, B, C or D{hint}")
    return MultipleChoice(question, answers, LETTERS.index(letter.strip()))


def normalised(question: MultipleChoice) -> tuple[str, ...]:
    """Two questions are the same if this is equal: question and choices in order, with runs of white
    space collapsed and case ignored."""
    return tuple(" ".join(text.split()).casefold() for text in (question.question, *question.answers))


def also_in(questions: Sequence[MultipleChoice], others: Sequence[MultipleChoice]) -> list[bool]:
    """For each question, whether it is also among `others`, compared by `normalised`."""
    known = {normalised(other) for other in others}
    return [normalised(question) in known for question in questions]


def read_split(folder: Path, split: str) -> dict[str, list[MultipleChoice]]:
    """{subject: its questions} of a split, for all subjects that have a file for it."""
    paths = {subject: question_path(folder, split, subject) for subject in list_subjects(folder)}
    return {subject: read_questions(path) for subject, path in paths.items() if path.exists()}


def checksums(folder: Path) -> dict[str, str]:
    """{"test/law_test.csv": SHA-256 of its content}, sorted.

    The content is the cells, one JSON list per row and line. It does not depend on a file's quotation
    marks and line ends, so that a folder and the same questions from the hub have equal checksums.
    """
    found = {}
    for split in SPLITS:
        for subject, questions in read_split(folder, split).items():
            digest = hashlib.sha256()
            for q in questions:
                cells = [q.question, *q.answers, LETTERS[q.gold]]
                digest.update(json.dumps(cells, ensure_ascii=False).encode() + b"\n")
            found[f"{split}/{subject}_{split}.csv"] = digest.hexdigest()
    return dict(sorted(found.items()))


def combined_checksum(found: Mapping[str, str]) -> str:
    """One SHA-256 of the result of `checksums`: of its lines "<checksum>  <path>", as sha256sum
    prints."""
    lines = "".join(f"{checksum}  {path}\n" for path, checksum in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
