"""Results of answers: the harness's figures to the digit, both groupings, paired differences."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expertchat.answers.artifact import (
    LOGPROBS,
    asked_questions,
    check_complete,
    folders_by_model,
    read_checked_answers,
    score_answers,
)
from expertchat.errors import UserError
from expertchat.mmlu.categories import CATEGORIES, HARNESS, HENDRYCKS, SUBCATEGORIES, harness_order
from expertchat.mmlu.harness import deviations, harness_json, result_files
from expertchat.mmlu.scores import differences, results, scores
from expertchat.pipeline.fingerprints import SCRIPTS, code_fingerprint, user_file_fingerprint
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import recipe_path, write_manifest, write_recipe
from expertchat.questions.artifact import list_subjects, question_path, read_split
from expertchat.questions.sources import describe
from expertchat.records import without_nan
from expertchat.settings.mmlu import Asking
from expertchat.splits import SPLITS
from expertchat.statistics import Z, tango_interval, wilson_interval
from test_questions import write

LETTERS = "ABCD"
SECTION = {
    "style": "harness",
    "formulation": "letter",
    "normalization": "none",
    "shots": 2,
    "limit": None,
    "overflow": "cut",
    "shards": 1,
}
ASKING = Asking.from_section(SECTION)


def answer_table(subjects, gold, logprobs, choices=None, shots=2):
    """A table as `read_answers` returns it."""
    logprobs = np.array(logprobs, dtype=float)
    table = pd.DataFrame({"subject": subjects, "question": "?", "gold": gold})
    table["index"] = table.groupby("subject").cumcount()
    for k, letter in enumerate(LETTERS):
        table[letter] = [row[k] for row in choices] if choices else letter
    table[LOGPROBS] = logprobs
    table = table.assign(shots=shots, shortened=False, beyond_harness=False)
    table["mass"] = np.exp(logprobs).sum(1)
    return score_answers(table, ASKING)


def answered(rights, p=0.7):
    """Answers to subjects {name: "1101"}, where 1 is a right answer. Gold is A, the likeliest letter has
    probability `p`, and the mass is 0.5."""
    rows = [(subject, int(right)) for subject, rights in rights.items() for right in rights]
    other = (1 - p) / 3
    logprobs = [
        np.log(0.5 * np.array([p, other, other, other] if right else [other, p, other, other]))
        for _, right in rows
    ]
    return answer_table([subject for subject, _ in rows], 0, logprobs)


# The groupings


def test_two_groupings_differ_by_anatomy_alone():
    assert len(HARNESS) == len(HENDRYCKS) == len(SUBCATEGORIES) == 57
    assert {s for s in HARNESS if HARNESS[s] != HENDRYCKS[s]} == {"anatomy"}
    assert (HARNESS["anatomy"], HENDRYCKS["anatomy"]) == ("stem", "other")
    sizes = {name: list(HARNESS.values()).count(name) for name in CATEGORIES}
    assert sizes == {"stem": 19, "other": 13, "social_sciences": 12, "humanities": 13}
    assert len(set(SUBCATEGORIES.values())) == 17
    assert SUBCATEGORIES["prehistory"] == "history" and HARNESS["prehistory"] == "humanities"
    assert sorted(["law_of_trees", *HARNESS], key=harness_order)[-1] == "law_of_trees"


@pytest.mark.skipif("EXPERTCHAT_DATA" not in os.environ, reason="EXPERTCHAT_DATA names no data")
def test_the_real_subjects_are_the_ones_grouped():
    folder = Path(os.environ["EXPERTCHAT_DATA"]) / "mmlu"
    assert list_subjects(folder) == sorted(HARNESS)
    gold = [q.gold for questions in read_split(folder, "test").values() for q in questions]
    table = answer_table(
        [s for s, questions in read_split(folder, "test").items() for _ in questions],
        gold,
        np.tile([-2.0, -2.0, -2.0, -1.0], (len(gold), 1)),
    )
    found = results(table)  # a model that always says D
    assert round(100 * found["micro"]["accuracy"], 2) == 26.89
    assert found["always"]["D"] == pytest.approx(found["micro"]["accuracy"], abs=1e-12)
    questions = {name: row["questions"] for name, row in found["categories"]["harness"].items()}
    assert questions == {"stem": 3153, "other": 3107, "social_sciences": 3077, "humanities": 4705}


# The harness's numbers


@pytest.mark.parametrize("formulation", ["letter", "cloze"])
def test_every_figure_is_that_of_lm_evaluation_harness_to_the_digit(formulation):
    path = Path(__file__).parent / "lm_eval_results.json"
    theirs = json.loads(path.read_text(encoding="utf-8"))[formulation]
    rows = sorted(theirs["answers"], key=lambda row: (row["subject"], row["index"]))
    table = answer_table(
        [row["subject"] for row in rows],
        [row["answer"] for row in rows],
        [row["logprobs"] for row in rows],
        [row["choices"] for row in rows],
    )
    sizes = {
        name.removeprefix("mmlu_").removesuffix("_continuation"): found["original"]
        for name, found in theirs["n-samples"].items()
    }
    ours = harness_json(table, "dummy", SECTION | {"formulation": formulation}, sizes, {})
    for key in set(theirs) - {"answers"}:
        assert ours[key] == theirs[key], key
        assert list(ours[key]) == list(theirs[key]), key
    root = ours["groups"]["mmlu" if formulation == "letter" else "mmlu_continuation"]
    found = results(table)
    assert found["micro"]["accuracy"] == root["acc,none"]
    assert found["micro"]["stderr"] == root["acc_stderr,none"]
    assert ours["expertchat"]["deviations"] == ["47 of MMLU's 57 subjects were not asked"]


def test_other_styles_do_not_pass_as_the_harness():
    table = answered({"anatomy": "10", "law_of_trees": "01"})
    for style, formulation, task, groups in [
        ("hendrycks", "letter", "mmlu_anatomy_hendrycks", ["mmlu_stem_hendrycks", "mmlu_hendrycks"]),
        (
            "chat",
            "cloze",
            "mmlu_anatomy_continuation_chat",
            ["mmlu_continuation_chat::stem", "mmlu_continuation_chat"],
        ),
    ]:
        section = SECTION | {"style": style, "formulation": formulation}
        found = harness_json(table, "m", section, {"anatomy": 2, "law_of_trees": 2}, {})
        assert task in found["results"] and set(groups) <= set(found["groups"])
        assert f"prompts in style {style}" in found["expertchat"]["deviations"]
        assert "doc_to_text" not in found["configs"][task]
        assert all(style in name for name in found["results"])


def test_prompts_that_the_harness_would_cut_are_a_deviation():
    table = answered({name: "10" for name in HARNESS})
    table.loc[:2, "beyond_harness"] = True
    (reason,) = deviations(table, SECTION)
    assert reason.startswith("3 prompts have more tokens than the harness reads of this model")


def test_dropped_shots_are_a_deviation_and_cut_tokens_are_not():
    table = answered({name: "10" for name in HARNESS})
    table.loc[:2, ["shortened", "shots"]] = [True, 1]
    assert deviations(table, SECTION) == []
    reason = "3 prompts lost shots; the harness cuts tokens from the left instead"
    assert deviations(table, SECTION | {"overflow": "drop"}) == [reason]
    found = results(table)
    assert found["shortened"] == 3 and found["shots"] == {"2": 111, "1": 3}


def test_subjects_that_are_not_of_mmlu_have_a_group_of_their_own():
    table = answered({"anatomy": "1100", "law_of_trees": "10"})
    sizes = {"anatomy": 135, "law_of_trees": 2}
    found = harness_json(table, "m", SECTION, sizes, {})
    assert found["groups"]["mmlu"]["acc,none"] == 0.5
    assert found["groups"]["mmlu"]["sample_len"] == 4
    assert found["groups"]["mmlu_uncategorised"]["sample_len"] == 2
    assert "mmlu_other" not in found["groups"]
    assert found["n-samples"]["mmlu_anatomy"] == {"original": 135, "effective": 4}
    only = harness_json(answered({"law_of_trees": "10"}), "m", SECTION, sizes, {})
    assert list(only["groups"]) == ["mmlu_uncategorised"]


def test_a_single_question_has_no_standard_error():
    found = harness_json(answered({"anatomy": "1"}), "m", SECTION, {"anatomy": 135}, {})
    assert found["results"]["mmlu_anatomy"]["acc_stderr,none"] == "N/A"
    assert found["groups"]["mmlu"]["acc_stderr,none"] == "N/A"
    assert math.isnan(results(answered({"anatomy": "1"}))["micro"]["stderr"])


# Results


def test_micro_macro_and_both_groupings_by_hand():
    table = answered({"anatomy": "1110", "virology": "10", "sociology": "00", "law_of_trees": "1111"})
    found = results(table)
    assert found["questions"] == 12
    assert found["micro"]["accuracy"] == pytest.approx(8 / 12)
    assert found["macro"]["accuracy"] == pytest.approx((0.75 + 0.5 + 0 + 1) / 4)
    # variances of the means: 0.1875/3, 0.25/1, 0, 0
    assert found["macro"]["stderr"] == pytest.approx((0.1875 / 3 + 0.25) ** 0.5 / 4)
    harness, hendrycks = (found["categories"][name] for name in ("harness", "hendrycks"))
    assert harness["stem"]["accuracy"] == 0.75 and harness["other"]["accuracy"] == 0.5
    assert "stem" not in hendrycks and hendrycks["other"]["accuracy"] == pytest.approx(4 / 6)
    assert hendrycks["other"]["subjects"] == 2
    assert found["categories"]["subcategories"]["culture"]["accuracy"] == 0
    assert found["uncategorised"]["accuracy"] == 1 and found["uncategorised"]["names"] == [
        "law_of_trees"
    ]
    assert list(found["by_subject"]) == ["anatomy", "virology", "sociology", "law_of_trees"]
    assert found["by_subject"]["anatomy"]["stderr"] == pytest.approx((0.1875 / 3) ** 0.5)
    assert found["always"] == {"A": 1, "B": 0, "C": 0, "D": 0}
    assert found["mass"] == pytest.approx(0.5)
    assert found["calibration_error"] == pytest.approx(0.7 - 8 / 12)
    assert found["shots"] == {"2": 12} and found["shortened"] == 0


def test_an_interval_draws_subjects_and_within_a_subject_questions():
    found = results(answered({"anatomy": "1" * 50, "virology": "0" * 50}))
    assert found["micro"]["interval"] == [0, 1]  # some resamples draw the same subject twice
    assert found["macro"]["interval"] == [0, 1]
    # all resamples of these are equal: Wilson's interval of 50 in 50, and of 0 in 50
    edge = Z**2 / (50 + Z**2)
    assert found["by_subject"]["anatomy"]["interval"] == pytest.approx([1 - edge, 1])
    assert found["by_subject"]["virology"]["interval"] == pytest.approx([0, edge])
    one = results(answered({"anatomy": "10" * 50}))
    assert (
        one["micro"]["interval"] == one["macro"]["interval"] == one["by_subject"]["anatomy"]["interval"]
    )
    assert one["micro"]["interval"] == pytest.approx([0.4, 0.6], abs=0.015)
    assert results(answered({"anatomy": "1"}))["micro"]["interval"] is None


# Differences


def test_a_difference_by_hand():
    first = answered({"anatomy": "1111100000", "virology": "1010"})
    second = answered({"anatomy": "1111011111", "virology": "1010"})
    found = differences(first, second)
    overall = found["overall"]
    assert overall["difference"] == pytest.approx(4 / 14)
    assert (overall["gained"], overall["lost"]) == (5, 1)
    assert overall["p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert found["by_subject"]["anatomy"]["p"] == overall["p"]
    assert found["by_subject"]["anatomy"]["p_holm"] == pytest.approx(2 * overall["p"])
    assert found["by_subject"]["virology"]["p_holm"] == 1 and found["subjects_tested"] == 2
    # no answer changed: Tango's interval of 0 discordant pairs in 4
    edge = Z**2 / (4 + Z**2)
    assert found["by_subject"]["virology"]["interval"] == pytest.approx([-edge, edge])
    assert found["macro"]["difference"] == pytest.approx((0.4 + 0) / 2)
    assert overall["interval"] == pytest.approx(
        [0, 0.4]
    )  # two subjects: one of them drawn twice, or both
    assert found["categories"]["harness"]["stem"]["gained"] == 5
    assert set(found["categories"]["hendrycks"]) == {"other"}
    assert found["uncategorised"] is None
    back = differences(second, first)["overall"]
    assert back["difference"] == pytest.approx(-4 / 14) and back["p"] == overall["p"]


def test_equal_accuracies_of_all_subjects_have_an_interval():
    """All resamples of subjects are equal, but 12 right answers of 12 do not prove 100 %."""
    table = answered({"anatomy": "1111", "virology": "1111", "sociology": "1111"})
    found = results(table)
    assert found["micro"]["interval"] == found["macro"]["interval"] == list(wilson_interval(12, 12))
    assert found["categories"]["harness"]["stem"]["interval"] == list(wilson_interval(4, 4))
    same = differences(table, table)
    expected = pytest.approx(tango_interval(0, 0, 12))
    assert same["overall"]["interval"] == same["macro"]["interval"] == expected
    better = differences(table.assign(prediction=1), table)
    assert better["overall"]["difference"] == better["macro"]["difference"] == 1
    assert better["overall"]["interval"] == better["macro"]["interval"]
    assert better["overall"]["interval"] == pytest.approx(tango_interval(12, 0, 12))


def test_rows_are_paired_by_question_in_any_order():
    first = answered({"anatomy": "1100", "virology": "10"})
    second = first.iloc[::-1]
    found = differences(first, second)["overall"]
    assert (found["difference"], found["gained"], found["lost"], found["p"]) == (0, 0, 0, 1)


def test_only_the_same_questions_are_compared():
    table = answered({"anatomy": "1100"})
    with pytest.raises(UserError, match="same questions: 4 and 3, 3 in common"):
        differences(table, table[:3])
    with pytest.raises(UserError, match="4 and 4, 0 in common"):
        differences(table, table.assign(gold=1))


def test_all_pairs_and_all_changes_are_reported():
    tables = {
        name: answered({"anatomy": rights})
        for name, rights in zip("xyz", ("11", "10", "00"), strict=True)
    }
    found = scores(tables, {"x": tables["z"]})
    assert [(row["first"], row["second"]) for row in found["pairs"]] == [
        ("x", "y"),
        ("x", "z"),
        ("y", "z"),
    ]
    assert found["changes"]["x"]["overall"]["difference"] == 1
    assert list(found["before"]) == ["x"] and list(found["models"]) == ["x", "y", "z"]
    assert scores(tables)["changes"] == {}


# From artifact to artifact


@pytest.fixture
def questions(tmp_path):
    """An artifact of stage questions: two subjects of three questions, gold A."""
    folder = tmp_path / "questions"
    rows = [[f"q{k}", "a", "b", "c", "d", "A"] for k in range(3)]
    for subject in ("anatomy", "virology"):
        write(question_path(folder, "test", subject), rows)
    (folder / "questions.json").write_text(json.dumps(describe(folder)))
    return folder


def recipe_of(name):
    settings = {"load": {"name": {"quantization": "nf4"}}, "name": name}
    return Recipe("answers", settings, "code", {"model": "models/0"})


def save(folder, table, recipe=None):
    folder.mkdir(parents=True)
    table.to_parquet(folder / "answers.parquet")
    recipe = recipe or recipe_of("a")
    write_manifest(folder, recipe, {"seconds": 2.0, "versions": {"torch": "2"}})
    return folder


def test_shards_become_one_file_per_model_and_the_scores(tmp_path, questions):
    shards = [
        save(tmp_path / "answers/v", answered({"virology": "001"})),
        save(tmp_path / "answers/a", answered({"anatomy": "110"})),
        save(tmp_path / "answers/w", answered({"anatomy": "111", "virology": "111"})),
    ]
    folders = folders_by_model(["x", "x", "y"], shards)
    answers = read_checked_answers(folders, questions, ASKING)
    assert answers["x"]["subject"].tolist() == ["anatomy"] * 3 + ["virology"] * 3
    found = scores(answers)
    files = result_files(found, answers, SECTION, 1, questions, folders)
    assert list(files) == ["scores.json", "results-x.json", "results-y.json"]
    assert json.loads(json.dumps(files, allow_nan=False)) == files
    whole = files["results-x.json"]
    assert whole["results"]["mmlu"]["acc,none"] == 0.5
    assert not [key for key in whole if "time" in key]  # the same answers give the same bytes
    ours = whole["expertchat"]
    assert ours["questions"] == {key: describe(questions)[key] for key in ("checksum", "checksums")}
    assert [part["artifact"] for part in ours["answers"]] == ["answers/v", "answers/a"]
    assert ours["scores"] == without_nan(found["models"]["x"])
    assert files["scores.json"]["pairs"][0]["overall"]["difference"] == 0.5
    assert files["scores.json"]["schema"] == 1


@pytest.mark.parametrize(
    ("rights", "message"),
    [
        ({"anatomy": "110"}, r"x: virology, question 0 was not answered \(3 questions in all\)"),
        (
            {"anatomy": "110", "virology": "1100"},
            r"x: virology, question 3 was not asked \(1 question in all\)",
        ),
    ],
)
def test_a_missing_or_foreign_question_is_named(tmp_path, questions, rights, message):
    folders = {"x": [save(tmp_path / "a", answered(rights))]}
    with pytest.raises(UserError, match=message):
        read_checked_answers(folders, questions, ASKING)


def test_a_question_answered_twice_or_of_another_gold_is_named(questions):
    asked = asked_questions(questions)
    table = answered({"anatomy": "110", "virology": "110"})
    check_complete(table, asked, "x")
    check_complete(answered({"anatomy": "1", "virology": "1"}), asked_questions(questions, 1), "x")
    with pytest.raises(UserError, match="x: virology, question 2 was answered twice"):
        check_complete(pd.concat([table, table[-1:]]), asked, "x")
    table.loc[4, "gold"] = 2
    with pytest.raises(UserError, match="x: virology, question 1 has another right answer"):
        check_complete(table, asked, "x")


def test_every_key_of_the_scores_is_documented(tmp_path, questions, root):
    rights = {"anatomy": "110", "virology": "110"}
    folders = {name: [save(tmp_path / name, answered(rights))] for name in "xy"}
    answers = read_checked_answers(folders, questions, ASKING)
    found = scores(answers, answers)
    files = result_files(found, answers, SECTION, 1, questions, folders)
    page = (root / "docs/mmlu.md").read_text(encoding="utf-8")
    named = {"x", "y", *rights, *SECTION, *LETTERS, *CATEGORIES, *SUBCATEGORIES.values(), "2"}
    named |= set(describe(questions)["checksums"])

    def keys(value):
        if isinstance(value, dict):
            return set(value).union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert {key for key in keys(files["scores.json"]) - named if f"`{key}`" not in page} == set()
    shape = set(files["results-x.json"]) | set(files["results-x.json"]["expertchat"]) - {"answers"}
    assert {key for key in shape if f"`{key}`" not in page} == set()


def run_script(stage, store, settings, inputs, runtime=None):
    """Runs a stage's script as a job does; returns the artifact's reference."""
    recipe = Recipe(stage, settings, code_fingerprint(stage), inputs, runtime or {})
    write_recipe(store, recipe)
    file = recipe_path(store, recipe.reference)
    command = [sys.executable, SCRIPTS / f"{stage}.py", file, "--store", store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return recipe.reference


@pytest.mark.slow
def test_the_scripts_from_csv_files_to_results(tmp_path):
    for split in SPLITS:
        for subject in ("anatomy", "virology"):
            rows = [[f"{split} {k}", "a", "b", "c", "d", "A"] for k in range(4)]
            write(question_path(tmp_path / "data", split, subject), rows)
    store = tmp_path / "store"
    data = tmp_path / "data"
    settings = {"source": "folder", "path": user_file_fingerprint(data), "subjects": []}
    asked = run_script("questions", store, settings, {}, {"files": {"path": str(data)}})
    assert json.loads((store / asked / "questions.json").read_text())["questions"]["test"] == 8
    base, tuned = recipe_of("base"), recipe_of("tuned")
    for recipe, rights in ((base, "10"), (tuned, "11")):
        save(store / recipe.reference, answered({"anatomy": rights, "virology": "11"}), recipe)
    settings = {
        "models": ["m"],
        "answers": ["m"],
        "before": ["m"],
        "section": SECTION | {"limit": 2},
        "round": 1,
    }
    inputs = {"answers": [tuned.reference], "before": [base.reference], "questions": asked}
    made = run_script("mmlu", store, settings, inputs)
    found = json.loads((store / made / "scores.json").read_text())
    assert found["changes"]["m"]["overall"]["difference"] == 0.25
    assert found["models"]["m"]["micro"]["accuracy"] == 1
    whole = json.loads((store / made / "results-m.json").read_text())
    assert whole["config"]["model_args"]["load"] == {"quantization": "nf4"}
    assert whole["n-samples"]["mmlu_anatomy"] == {"original": 4, "effective": 2}
    inputs = {"answers": [base.reference], "questions": asked}
    made = run_script("mmlu", store, settings | {"before": [], "round": 0}, inputs)
    assert json.loads((store / made / "scores.json").read_text())["changes"] == {}
