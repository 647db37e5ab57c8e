"""JSON and JSON Lines files: what is written is read back, and an interruption leaves the old file."""

import json

import pytest
from expertchat.records import read_all, read_json, read_records, write_json, write_records


def test_json_is_written_as_readable_utf_8_with_null_for_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"ü": [1.5, float("nan"), (float("inf"), "–")]})
    assert path.read_text(encoding="utf-8") == (
        '{\n "ü": [\n  1.5,\n  null,\n  [\n   null,\n   "–"\n  ]\n ]\n}'
    )
    assert read_json(path) == {"ü": [1.5, None, [None, "–"]]}


def test_records_of_several_folders_are_read_in_order(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_records(tmp_path / name / "x.jsonl", [{"ü": name, "i": i} for i in range(2)])
    rows = list(read_all([tmp_path / "b", tmp_path / "a"], "x.jsonl"))
    assert [(row["ü"], row["i"]) for row in rows] == [("b", 0), ("b", 1), ("a", 0), ("a", 1)]
    assert read_records(tmp_path / "a/x.jsonl") == rows[2:]


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "x"
    for write, good, bad in (
        (write_json, {"a": 1}, {"a": {1}}),
        (write_records, [{"a": 1}], [{}, {"a": {1}}]),
    ):
        write(path, good)
        before = path.read_bytes()
        with pytest.raises(TypeError):
            write(path, bad)
        assert path.read_bytes() == before and json.loads(before) == {"a": 1}
