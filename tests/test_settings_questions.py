"""Question files that do not fit the settings are found before any job starts."""

import pytest
from expertchat.pipeline.experiment import read_experiment
from planning import changed, fault_of


def test_a_folder_without_a_dev_file_is_named(default_config, root, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/law_test.csv").write_text("q,a,b,c,d,A\n")
    config = changed(default_config, "mmlu.questions", {"source": "folder", "path": str(tmp_path)})
    assert "dev/law_dev.csv is missing" in fault_of(config, root)


LAW = "q{},a,b,c,d,A\n"


@pytest.fixture
def questions(tmp_path):
    """A folder with one subject: 2 questions in dev, 6 in val, 3 in test, all different."""
    for split, numbers in {"dev": range(2), "val": range(10, 16), "test": range(20, 23)}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / f"law_{split}.csv").write_text("".join(LAW.format(k) for k in numbers))
    return tmp_path


def asking(config, folder, **mmlu):
    questions = {"source": "folder", "path": str(folder)}
    return config | {"mmlu": {"questions": questions, "shots": 2} | mmlu}


def test_a_dev_file_with_too_few_rows_is_found_before_any_job(default_config, root, questions):
    read_experiment(asking(default_config, questions), root)
    message = fault_of(asking(default_config, questions, shots=3), root)
    assert "mmlu.questions.path: " in message
    assert "law_dev.csv: 2 questions, but mmlu.shots is 3" in message
    (questions / "dev/law_dev.csv").write_text("q,a,b\n")
    message = fault_of(asking(default_config, questions, shots=1), root)
    assert "law_dev.csv, line 1: 3 columns, but 6 are needed" in message


def test_too_few_val_questions_are_found_before_any_job(default_config, root, questions):
    few = "mixtures are fitted on at least 5 val questions that are not in test, and there are 4"
    assert few in fault_of(asking(default_config, questions, limit=4), root)
    read_experiment(asking(default_config, questions, limit=4, mixture=False), root)
    with (questions / "test/law_test.csv").open("a") as file:
        file.write(LAW.format(10) + LAW.format(11).upper())  # questions that val has too
    assert few in fault_of(asking(default_config, questions), root)
    (questions / "val/law_val.csv").write_text("q,a,b,c,d,F\n")
    message = fault_of(asking(default_config, questions), root)
    assert "law_val.csv, line 1: the right answer is 'F'" in message
