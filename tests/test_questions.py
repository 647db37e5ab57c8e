"""MMLU's layout: no row is skipped silently, and errors name file and line."""

import csv
import os
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.questions.artifact import (
    MultipleChoice,
    also_in,
    checksums,
    combined_checksum,
    list_subjects,
    normalised,
    question_path,
    read_questions,
    read_shots,
)
from expertchat.questions.sources import copy_questions, describe, fetch_questions, write_splits
from expertchat.splits import SPLITS


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


GOOD = ["Is it, so?", "None", "1", "NA", "Null", "C"]


def test_cells_stay_text(tmp_path):
    write(tmp_path / "q.csv", [GOOD])
    assert read_questions(tmp_path / "q.csv") == [
        MultipleChoice("Is it, so?", ("None", "1", "NA", "Null"), 2)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD[:5], "line 2: 5 columns"),
        ([*GOOD[:5], "E"], "line 2: the right answer is 'E'"),
        ([*GOOD[:5], ""], "line 2: the right answer is ''"),
        ([*GOOD[:5], "AB"], "line 2: the right answer is 'AB'"),
        ([" ", *GOOD[1:]], "line 2: the question is empty"),
        ([GOOD[0], "a", " ", "c", "d", "A"], "line 2: choice B is empty"),
        ([*GOOD, "more"], "line 2: 7 columns"),
        ([" "], "line 2: the line is blank"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    write(tmp_path / "q.csv", [GOOD, row])
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q,a,b,c,d,A\né,a,b,c,d,A\n".encode("latin-1"), r"q\.csv, line 2: not UTF-8 \(byte 0xe9\)"),
        ("q,a,b,c,d,A\n".encode("utf-16"), r"q\.csv, line 1: a NUL byte"),
        (b"q,a,b,c,d,A\r\nq,a,b,c\0,d,A\r\n", r"q\.csv, line 2: a NUL byte"),
        (b"", r"q\.csv: the file is empty"),
        (b"q,a,b,c,d,A\n\nq,a,b,c,d,A\n", r"q\.csv, line 2: the line is blank"),
        (b"q,a,b,c,d,A\n\n", r"q\.csv, line 2: the line is blank"),
        (b"question,A,B,C,D,answer\nq,a,b,c,d,A\n", "line 1: the right answer .* looks like a header"),
        (b"question,choices,answer\n", "line 1: 3 columns, .* looks like a header"),
        (b'q,a,b,c,d,A\n"q,a,b,c,d,A\nq,a,b,c,d,A\n', "line 2: a quotation mark is never closed"),
        (b'q,a,b,c,d,A\n"q" is,a,b,c,d,A\n', "line 2: .* a closing one is followed by text"),
        # the first quotation mark is a mistake, and the rows after it happen to make six columns again
        (
            b'"q1,a,b,c,d,A\n""q2"",a,b,c,d,B\nq3",a,b,c,d,C\n',
            "line 1: a cell contains complete rows, down to",
        ),
        (b'"two\nlines",a,b,c,d,A\n,a,b,c,d,A\n', "line 3: the question is empty"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "q.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "q.csv")


def test_byte_order_mark_and_line_ends_change_nothing(tmp_path):
    plain = "Two\nlines, é?,a,b,c,d,A\n".replace("Two\nlines, é?", '"Two\nlines, é?"')
    (tmp_path / "plain.csv").write_bytes(plain.encode())
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf" + plain.replace("A\n", "A\r\n").encode())
    found = read_questions(tmp_path / "plain.csv")
    assert found == [MultipleChoice("Two\nlines, é?", ("a", "b", "c", "d"), 0)]
    assert read_questions(tmp_path / "mark.csv") == found


def test_outer_white_space_is_kept_for_the_prompts_to_decide(tmp_path):
    write(tmp_path / "q.csv", [["q ", " a", "b", "c", "d", " B"]])
    assert read_questions(tmp_path / "q.csv") == [MultipleChoice("q ", (" a", "b", "c", "d"), 1)]


def test_the_given_number_of_solved_questions_or_an_error(tmp_path):
    write(question_path(tmp_path, "dev", "law"), [GOOD, ["q", "a", "b", "c", "d", "A"]])
    assert [shot.gold for shot in read_shots(tmp_path, "law", 1)] == [2]
    assert read_shots(tmp_path, "art", 0) == []
    with pytest.raises(UserError, match=r"law_dev\.csv: 2 questions, but mmlu\.shots is 3"):
        read_shots(tmp_path, "law", 3)
    with pytest.raises(UserError, match=r"art_dev\.csv: no such file, but mmlu\.shots is 1"):
        read_shots(tmp_path, "art", 1)


def test_copying_checks_every_file_it_takes(tmp_path):
    for split in ("dev", "test"):
        write(question_path(tmp_path / "in", split, "law"), [GOOD])
    write(question_path(tmp_path / "in", "test", "art"), [GOOD])
    copy_questions(tmp_path / "in", ["law"], tmp_path / "out")
    assert list_subjects(tmp_path / "out") == ["law"]
    with pytest.raises(UserError, match=r"art_dev\.csv: No such file"):
        copy_questions(tmp_path / "in", [], tmp_path / "again")


def test_a_file_that_would_be_ignored_is_named(tmp_path):
    for split in ("dev", "test"):
        write(question_path(tmp_path, split, "law"), [GOOD])
    stray = tmp_path / "test/art_val.csv"
    write(stray, [GOOD])
    with pytest.raises(UserError, match=r"art_val\.csv: the file name must end in _test\.csv"):
        copy_questions(tmp_path, [], tmp_path / "out")
    stray.rename(question_path(tmp_path, "dev", "art"))
    with pytest.raises(UserError, match=r"art_dev\.csv: its subject has no file"):
        copy_questions(tmp_path, [], tmp_path / "out")
    copy_questions(tmp_path, ["law"], tmp_path / "out")
    with pytest.raises(UserError, match=r"contains no file test/<subject>_test\.csv"):
        copy_questions(tmp_path / "dev", [], tmp_path / "out")


def test_without_any_dev_file_there_are_no_shots_and_no_error(tmp_path):
    write(question_path(tmp_path, "test", "law"), [GOOD])
    copy_questions(tmp_path, [], tmp_path / "out")
    assert describe(tmp_path / "out")["missing"] == ["dev/law_dev.csv", "val/law_val.csv"]


def test_rows_of_the_hub_become_the_same_files(tmp_path):
    rows = [{"question": "q", "subject": "law", "choices": ["w", "x", "y", "z"], "answer": 3}]
    write_splits({"dev": rows, "val": rows, "test": rows}, [], tmp_path)
    assert read_questions(question_path(tmp_path, "dev", "law"))[0].gold == 3
    with pytest.raises(UserError, match=r"mmlu.questions.subjects: art"):
        write_splits({"dev": rows}, ["art"], tmp_path)
    with pytest.raises(UserError, match=r"test, row 1: the right answer is -1, not 0, 1, 2 or 3"):
        write_splits({"test": [*rows, rows[0] | {"answer": -1}]}, [], tmp_path)
    with pytest.raises(UserError, match=r"test, row 0: 5 columns"):
        write_splits({"test": [rows[0] | {"choices": ["w", "x", "y"]}]}, [], tmp_path)
    for changed in ({"question": None}, {"choices": ["w", "x", None, "z"]}, {"subject": 3}):
        with pytest.raises(
            UserError, match=r"test, row 0: subject, question and choices must be strings"
        ):
            write_splits({"test": [rows[0] | changed]}, [], tmp_path)


def test_a_data_set_cannot_name_a_file_elsewhere(tmp_path):
    row = {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 3}
    for subject in ("../../law", "/law", "a/b", ".law", "", "law\x1b[2J"):
        with pytest.raises(
            UserError, match=r"test, row 0: the subject .* cannot be used in a file name"
        ):
            write_splits({"test": [row | {"subject": subject}]}, [], tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*.csv"))


def save_as_on_the_hub(splits, folder, names):
    """Writes a data set of parquet files with one configuration, "all", like cais/mmlu on the hub."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        question=Value("string"),
        subject=Value("string"),
        choices=List(Value("string")),
        answer=ClassLabel(names=list("ABCD")),
    )
    folder.mkdir()
    files = ""
    for split, name in names.items():
        rows = [
            {
                "question": q.question,
                "subject": subject,
                "choices": list(q.answers),
                "answer": q.gold,
            }
            for subject, questions in splits[split].items()
            for q in questions
        ]
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{name}.parquet")
        files += f"  - split: {name}\n    path: {name}.parquet\n"
    head = f"---\nconfigs:\n- config_name: all\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(head, encoding="utf-8")


HUB_NAMES = {"dev": "dev", "val": "validation", "test": "test"}


def questions_of(folder):
    return {
        split: {s: read_questions(question_path(folder, split, s)) for s in list_subjects(folder)}
        for split in SPLITS
    }


def check_hub_equals(folder, tmp_path):
    save_as_on_the_hub(questions_of(folder), tmp_path / "hub", HUB_NAMES)
    fetch_questions(str(tmp_path / "hub"), "main", [], tmp_path / "fetched")
    copy_questions(folder, [], tmp_path / "copied")
    assert checksums(tmp_path / "fetched") == checksums(tmp_path / "copied")
    assert questions_of(tmp_path / "fetched") == questions_of(folder)


def test_a_folder_and_the_hub_give_the_same_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    odd = ['He said "so"', " lead, trail ", "line\r\nbreak", "é", "None", "B"]
    for split in SPLITS:
        for subject in ("law", "art"):
            write(question_path(tmp_path / "in", split, subject), [odd, [split, *odd[1:]]])
    check_hub_equals(tmp_path / "in", tmp_path)
    save_as_on_the_hub(questions_of(tmp_path / "in"), tmp_path / "part", {"dev": "dev", "test": "test"})
    with pytest.raises(UserError, match="no split 'validation'"):
        fetch_questions(str(tmp_path / "part"), "main", [], tmp_path / "none")
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_questions(str(tmp_path / "nowhere"), "main", [], tmp_path / "none")


def test_checksums_are_of_the_content(tmp_path):
    for name, end in (("one", "\n"), ("two", "\r\n")):
        path = question_path(tmp_path / name, "test", "law")
        path.parent.mkdir(parents=True)
        path.write_bytes(f'"q",a,b,c,d,A{end}'.encode())
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    # printf '["q", "a", "b", "c", "d", "A"]\n' | sha256sum
    expected = "05018fde688dfe50f9509d5a964b269af8144dd07278483dc008d5bb5fc9854b"
    assert checksums(tmp_path / "one") == {"test/law_test.csv": expected}
    question_path(tmp_path / "two", "test", "law").write_text("q,a,b,c,d,B\n")
    assert checksums(tmp_path / "one") != checksums(tmp_path / "two")
    assert combined_checksum({"b": "2", "a": "1"}) == combined_checksum({"a": "1", "b": "2"})


def test_overlaps_are_found_white_space_and_case_apart(tmp_path):
    same = [["Is  it?", "A", "b", "c", "d", "A"], ["is it? ", "a", "B", "c", "d", "A"]]
    other = ["is it?", "a", "b", "d", "c", "A"]  # the choices in another order are another question
    write(question_path(tmp_path, "test", "art"), [same[0], other])
    write(question_path(tmp_path, "test", "law"), [["new", "a", "b", "c", "d", "A"], same[1]])
    write(question_path(tmp_path, "val", "law"), [["else", "a", "b", "c", "d", "A"], same[1]])
    first, second = (MultipleChoice(row[0], tuple(row[1:5]), 0) for row in same)
    assert normalised(first) == normalised(second) == ("is it?", "a", "b", "c", "d")
    assert also_in([first, second], [second]) == [True, True]
    found = describe(tmp_path)
    assert found["questions"] == {"dev": 0, "val": 2, "test": 4}
    assert found["counts"]["val"] == {"law": 2}
    assert found["overlaps"] == {
        "dev_in_test": [],
        "val_in_test": [["law", 1]],
        "val_in_dev": [],
        "test_repeated": [[["art", 0], ["law", 1]]],
    }


@pytest.mark.skipif("EXPERTCHAT_DATA" not in os.environ, reason="EXPERTCHAT_DATA names no data")
def test_the_real_files_are_read_whole():
    folder = Path(os.environ["EXPERTCHAT_DATA"]) / "mmlu"
    counts = dict.fromkeys(("dev", "val", "test"), 0)
    for subject in list_subjects(folder):
        for split in counts:
            counts[split] += len(read_questions(question_path(folder, split, subject)))
    assert counts == {"dev": 285, "val": 1531, "test": 14042}
    found = describe(folder)
    assert found["questions"] == counts and found["missing"] == []
    overlaps = {name: len(rows) for name, rows in found["overlaps"].items()}
    assert overlaps == {"dev_in_test": 5, "val_in_test": 28, "val_in_dev": 1, "test_repeated": 105}


@pytest.mark.slow
@pytest.mark.skipif("EXPERTCHAT_DATA" not in os.environ, reason="EXPERTCHAT_DATA names no data")
def test_the_real_files_and_a_hub_of_them_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    check_hub_equals(Path(os.environ["EXPERTCHAT_DATA"]) / "mmlu", tmp_path)
