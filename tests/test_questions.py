"""MMLU's layout: nothing skipped in silence, file and line named."""

import csv
import os
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.questions import (
    MultipleChoice,
    copy_questions,
    list_subjects,
    question_path,
    read_questions,
    write_splits,
)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


GOOD = ["Is it, so?", "None", "1", "NA", "", "C"]


def test_cells_stay_text(tmp_path):
    write(tmp_path / "q.csv", [GOOD])
    assert read_questions(tmp_path / "q.csv") == [
        MultipleChoice("Is it, so?", ("None", "1", "NA", ""), 2)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD[:5], "line 2: 5 columns"),
        ([*GOOD[:5], "E"], "line 2: the right answer is 'E'"),
        ([*GOOD[:5], ""], "line 2: the right answer is ''"),
        ([*GOOD[:5], "AB"], "line 2: the right answer is 'AB'"),
        ([" ", *GOOD[1:]], "line 2: the question is empty"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    write(tmp_path / "q.csv", [GOOD, row])
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "q.csv")


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "q.csv").write_bytes("é,a,b,c,d,A".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_questions(tmp_path / "q.csv")


def test_copying_checks_every_file_it_takes(tmp_path):
    for split in ("dev", "test"):
        write(question_path(tmp_path / "in", split, "law"), [GOOD])
    write(question_path(tmp_path / "in", "test", "art"), [GOOD])
    copy_questions(tmp_path / "in", ["law"], tmp_path / "out")
    assert list_subjects(tmp_path / "out") == ["law"]
    with pytest.raises(UserError, match=r"art_dev\.csv: no such file"):
        copy_questions(tmp_path / "in", [], tmp_path / "again")


def test_rows_of_the_hub_become_the_same_files(tmp_path):
    rows = [{"question": "q", "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 3}]
    write_splits({"dev": rows, "val": rows, "test": rows}, [], tmp_path)
    assert read_questions(question_path(tmp_path, "dev", "law"))[0].gold == 3
    with pytest.raises(UserError, match=r"mmlu.questions.subjects: art"):
        write_splits({"dev": rows}, ["art"], tmp_path)


@pytest.mark.skipif("EXPERTCHAT_DATA" not in os.environ, reason="EXPERTCHAT_DATA names no data")
def test_the_real_files_are_read_whole():
    folder = Path(os.environ["EXPERTCHAT_DATA"]) / "mmlu"
    counts = dict.fromkeys(("dev", "val", "test"), 0)
    for subject in list_subjects(folder):
        for split in counts:
            counts[split] += len(read_questions(question_path(folder, split, subject)))
    assert counts == {"dev": 285, "val": 1531, "test": 14042}
