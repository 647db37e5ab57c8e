"""Sources of questions: a folder, a data set of the hub, or rows. All are checked, and written in MMLU's
layout.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.questions.artifact import (
    LETTERS,
    also_in,
    checksums,
    combined_checksum,
    list_subjects,
    normalised,
    parse_question,
    question_path,
    read_questions,
    read_split,
)
from expertchat.splits import SPLITS

HUB_SPLITS = {"dev": "dev", "val": "validation", "test": "test"}
HUB_COLUMNS = ("question", "subject", "choices", "answer")
SUBJECT = re.compile(r"\w[\w. -]*")  # a data set's subject becomes a file name, so it has no "/"


def copy_questions(source: Path, subjects: Sequence[str], out: Path) -> None:
    """Checks the files of `subjects` (if empty, of all subjects) and copies them to `out`.

    A file in val/ may be missing, because only fitted mixtures need it. A file in dev/ may be missing
    only if there is no folder dev/, which suits questions without shots. Raises UserError if a file is
    malformed or missing, or if the name of a CSV file does not fit the layout.
    """
    known = list_subjects(source)
    if not known:
        raise UserError(f"{source}: the folder contains no file test/<subject>_test.csv")
    if not subjects:
        _check_names(source, known)
    for subject in subjects or known:
        for split in SPLITS:
            path = question_path(source, split, subject)
            if not path.exists() and (split == "val" or (split == "dev" and not path.parent.exists())):
                continue
            read_questions(path)
            copy = question_path(out, split, subject)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def _check_names(source: Path, known: Sequence[str]) -> None:
    """Raises UserError for a CSV file that would be ignored because of its name."""
    for split in SPLITS:
        for path in sorted((source / split).glob("[!.]*.csv")):
            if not path.name.endswith(f"_{split}.csv"):
                raise UserError(f"{path}: the file name must end in _{split}.csv")
            if path.name.removesuffix(f"_{split}.csv") not in known:
                raise UserError(f"{path}: its subject has no file in {source / 'test'}")


def fetch_questions(repository: str, revision: str, subjects: Sequence[str], out: Path) -> None:
    """Fetches a data set in the schema of cais/mmlu from the hub and writes it in MMLU's layout.

    Raises UserError if it cannot be fetched or is malformed.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        splits = load_dataset(repository, "all", revision=revision)
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{repository} at {revision} cannot be fetched: {reason}") from None
    write_hub_splits(splits, repository, subjects, out)


def write_hub_splits(splits, repository: str, subjects: Sequence[str], out: Path) -> None:
    """Writes a DatasetDict in the schema of cais/mmlu in MMLU's layout."""
    for name in HUB_SPLITS.values():
        if name not in splits:
            raise UserError(
                f"{repository}: the data set has no split {name!r}; it has {', '.join(sorted(splits))}"
            )
        missing = set(HUB_COLUMNS) - set(splits[name].column_names)
        if missing:
            raise UserError(
                f"{repository}, split {name}: the split has no column {sorted(missing)[0]!r}"
            )
    write_splits({split: splits[HUB_SPLITS[split]] for split in SPLITS}, subjects, out)


def write_splits(splits, subjects: Sequence[str], out: Path) -> None:
    """Writes {split: rows} with rows {question, subject, choices, answer: 0 to 3} in MMLU's layout.

    Raises UserError for a malformed row, or if a split has no rows of one of `subjects`.
    """
    for split, rows in splits.items():
        by_subject: dict[str, list[list[str]]] = {}
        for number, row in enumerate(rows):
            place = f"mmlu.questions: {split}, row {number}"
            if row["answer"] not in range(len(LETTERS)):
                raise UserError(f"{place}: the right answer is {row['answer']!r}, not 0, 1, 2 or 3")
            line = [row["question"], *row["choices"], LETTERS[row["answer"]]]
            if not all(isinstance(cell, str) for cell in (row["subject"], *line)):
                raise UserError(f"{place}: subject, question and choices must be strings")
            if not SUBJECT.fullmatch(row["subject"]):
                raise UserError(f"{place}: the subject {row['subject']!r} cannot be used in a file name")
            parse_question(line, place, 0)
            by_subject.setdefault(row["subject"], []).append(line)
        for subject in subjects or sorted(by_subject):
            if subject not in by_subject:
                raise UserError(
                    f"mmlu.questions.subjects: {subject}; the data set has no {split} questions of it"
                )
            path = question_path(out, split, subject)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(by_subject[subject])


def describe(folder: Path) -> dict[str, Any]:
    """The content of questions.json, which describes an artifact of stage questions.

    `questions`: number by split; `counts`: number by split and subject; `missing`: files of dev and val;
    `overlaps`, by `normalised`: rows [subject, index] of one split that are also in another, and groups
    of rows of test that are the same; `checksums` and their combined `checksum`.
    """
    splits = {split: read_split(folder, split) for split in SPLITS}
    rows = {
        split: [
            ([subject, index], question)
            for subject, questions in by_subject.items()
            for index, question in enumerate(questions)
        ]
        for split, by_subject in splits.items()
    }
    found = checksums(folder)
    return {
        "questions": {split: len(rows[split]) for split in SPLITS},
        "counts": {split: {s: len(q) for s, q in splits[split].items()} for split in SPLITS},
        "missing": [
            f"{split}/{subject}_{split}.csv"
            for split in ("dev", "val")
            for subject in splits["test"]
            if subject not in splits[split]
        ],
        "overlaps": {
            "dev_in_test": _shared(rows["dev"], rows["test"]),
            "val_in_test": _shared(rows["val"], rows["test"]),
            "val_in_dev": _shared(rows["val"], rows["dev"]),
            "test_repeated": _repeated(rows["test"]),
        },
        "checksums": found,
        "checksum": combined_checksum(found),
    }


def _shared(rows, others) -> list[list[Any]]:
    flags = also_in([question for _, question in rows], [question for _, question in others])
    return [place for (place, _), flag in zip(rows, flags, strict=True) if flag]


def _repeated(rows) -> list[list[list[Any]]]:
    keys = [normalised(question) for _, question in rows]
    count = Counter(keys)
    groups: dict[tuple[str, ...], list[list[Any]]] = {}
    for key, (place, _) in zip(keys, rows, strict=True):
        if count[key] > 1:
            groups.setdefault(key, []).append(place)
    return list(groups.values())
