"""Stage mixture: test answers are mixed as fitted on val, and compared with the best single model."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from expertchat.errors import UserError
from expertchat.mixture.artifact import read_fits, write_fits
from expertchat.mixture.evaluation import answer_rows, mix_answers, score_mixtures, text_table
from expertchat.mixture.fits import fit_mixtures
from expertchat.mixture.methods import METHODS
from expertchat.pipeline.fingerprints import SCRIPTS, code_fingerprint
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import recipe_path, write_manifest, write_recipe
from expertchat.records import without_nan
from expertchat.settings.mmlu import Asking
from expertchat.statistics import tango_interval, wilson_interval
from mixing_answers import answered, model_answers, questions

SUBJECTS = ("art", "botany", "chess", "diving", "ethics", "fishing", "golf", "history")
SKILLS = [[4, 0.1] * 4, [0.1, 4] * 4]  # each an expert in half of the subjects
PUBLISHED = {"m0": 47.14, "uniform_full": 40.51}


def experts(each, seed, val=False):
    return model_answers(questions(SUBJECTS, each, seed), SKILLS, seed, val)


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    write_fits(folder, fit_mixtures(experts(8, 0, val=True), {}, 0))
    return read_fits(folder)


@pytest.fixture(scope="module")
def mixed(fits):
    return mix_answers(fits, experts(30, 1), {})


@pytest.fixture(scope="module")
def scores(fits, mixed):
    return score_mixtures(fits, *mixed, seed=0, published=PUBLISHED)


def row(scores, name):
    [found] = [row for row in scores["methods"] if row["method"] == name]
    return found


def test_models_that_answer_alike_are_mixed_to_what_each_answers():
    """Two names of the same weights share their base answers."""
    val, test = (
        dict.fromkeys(("ada", "eva"), experts(8, seed, val=val)["m0"])
        for seed, val in ((0, True), (1, False))
    )
    fits = fit_mixtures(val, {}, 0)
    scores = score_mixtures(fits, *mix_answers(fits, test, {}), seed=0)
    alone = row(scores, "model/ada")
    assert alone["accuracy"] == row(scores, "model/eva")["accuracy"] == row(scores, "oracle")["accuracy"]
    unbiased = ("best_single", "uniform", "log_linear", "majority", "temperature", "weights")
    assert {row(scores, name)["accuracy"] for name in unbiased} == {alone["accuracy"]}
    assert text_table(scores)


def test_every_model_method_and_the_oracle_have_a_row(scores):
    names = ["model/m0", "model/m1", *(method.name for method in METHODS), "oracle"]
    assert [row["method"] for row in scores["methods"]] == names
    assert (scores["questions"], scores["subjects"], scores["val_questions"]) == (240, 8, 64)
    assert {row["kind"] for row in scores["methods"]} == {
        "member",
        "choice",
        "fixed",
        "fitted",
        "oracle",
    }


def test_scores_by_hand(scores, mixed):
    table, by_method = mixed
    right = by_method["uniform"].argmax(1) == table.gold
    best = table.right[table.models.index(scores["best_single"])]
    found = row(scores, "uniform")
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["macro"] == pytest.approx(right.mean())  # subjects of equal size
    assert found["over_best_single"] == pytest.approx(right.mean() - best.mean())
    oracle = table.right.any(0).mean()
    assert row(scores, "oracle")["accuracy"] == pytest.approx(oracle)
    share = (right.mean() - best.mean()) / (oracle - best.mean())
    assert found["share_of_oracle"] == pytest.approx(share)


def test_one_subject_has_no_intervals(fits):
    answers = model_answers(questions(("art",), 30, 1), [[4], [0.1]], 1)
    found = score_mixtures(fits, *mix_answers(fits, answers, {}), seed=0)
    for one in without_nan(found)["methods"]:
        for key in ("interval", "macro_interval", "over_best_single_interval"):
            assert one[key] == [None, None]


def test_equal_accuracies_of_all_subjects_have_an_interval(fits):
    """If every method is always right, all resamples are equal, but that does not prove 100 %."""
    asked = questions(SUBJECTS, 5, 1)
    sure = 9 * np.eye(4)[asked["gold"]]
    answers = {name: answered(asked, sure) for name in ("m0", "m1")}
    found = score_mixtures(fits, *mix_answers(fits, answers, {}), seed=0)
    reference = {"best_single", f"model/{found['best_single']}"}
    for one in found["methods"]:
        assert one["accuracy"] == 1
        assert one["interval"] == one["macro_interval"] == list(wilson_interval(40, 40))
        same = [0, 0] if one["method"] in reference else list(tango_interval(0, 0, 40))
        assert one["over_best_single_interval"] == same


def test_the_best_fitted_mixture_of_experts_beats_the_better_one(scores):
    best = row(scores, scores["best_fitted"])
    assert best["kind"] == "fitted"
    assert best["over_best_single"] > 0.08 and best["over_best_single_interval"][0] > 0
    assert best["mcnemar"] < 1e-6
    assert best["share_of_oracle"] > 0.5


def test_the_best_single_model_is_chosen_on_val(fits, scores):
    val = fits["val_accuracy"]
    assert scores["best_single"] == max(val, key=val.get)
    single, member = row(scores, "best_single"), row(scores, f"model/{scores['best_single']}")
    assert single["accuracy"] == member["accuracy"]
    assert single["over_best_single"] == 0 and single["mcnemar"] == 1


def test_no_gold_of_the_test_answers_is_read_by_any_method(fits, mixed):
    answers = experts(30, 1)
    gold = np.random.default_rng(0).permutation(answers["m0"]["gold"].to_numpy())
    shuffled = {name: frame.assign(gold=gold) for name, frame in answers.items()}
    _, again = mix_answers(fits, shuffled, {})
    for name, p in mixed[1].items():
        assert np.array_equal(again[name], p)


def test_answers_in_long_form(mixed):
    table, by_method = mixed
    rows = answer_rows(table, by_method)
    columns = ["method", "subject", "index", "gold", "prediction", "p_A", "p_B", "p_C", "p_D"]
    assert list(rows.columns) == columns and len(rows) == 240 * len(METHODS)
    stacking = rows[rows["method"] == "stacking"]
    assert np.allclose(stacking[columns[5:]], by_method["stacking"])
    assert stacking["subject"].unique().tolist() == list(SUBJECTS)


def test_the_table_marks_the_choice_and_shows_published_figures(scores):
    text = text_table(scores)
    title = row(scores, scores["best_fitted"])["title"]
    assert text.count(f"| {title} (*) |") == 1
    assert "chosen by cross-validated accuracy on val" in text
    share = 100 * row(scores, scores["best_fitted"])["share_of_oracle"]
    assert f"It has {share:.0f} % of the oracle's gain." in text
    head, _, *lines = text.split("\n\n")[0].splitlines()
    assert head.endswith("| published |")
    ends = {line.split(" |")[0]: line.split("|")[-2].strip() for line in lines}
    assert (ends["| m0"], ends["| m1"]) == ("47.14", "")
    assert ends["| uniform, full vocabulary"] == "40.51"
    assert {line.count("|") for line in [head, *lines]} == {11}


def test_one_subject_has_no_interval(fits):
    answers = {name: frame[frame["subject"] == "art"] for name, frame in experts(30, 1).items()}
    scores = score_mixtures(fits, *mix_answers(fits, answers, {}), seed=0)
    found = row(scores, "stacking")
    assert np.isnan(found["interval"]).all() and np.isnan(found["over_best_single_interval"]).all()
    assert json.loads(json.dumps(without_nan(found)))["interval"] == [None, None]
    assert "nan" not in text_table(scores)


def test_without_published_figures_there_is_no_such_column(fits, mixed):
    assert "published" not in text_table(score_mixtures(fits, *mixed, seed=0))


def test_the_scores_are_json(scores):
    json.dumps(without_nan(scores), allow_nan=False)


def test_published_figures_of_an_unknown_name_are_refused(fits, mixed):
    with pytest.raises(
        UserError, match=r"^mmlu\.published: 'gpt' is not a model or a mixture; known: m0"
    ):
        score_mixtures(fits, *mixed, seed=0, published={"gpt": 99.0})


def test_other_models_than_those_fitted_are_refused(fits):
    answers = experts(5, 1)
    with pytest.raises(UserError, match=r"^the mixtures were fitted on m0, m1 and cannot mix m1, m0$"):
        mix_answers(fits, {"m1": answers["m1"], "m0": answers["m0"]}, {})


def run_script(stage, store, settings, inputs):
    """Runs a stage's script as a job does; returns the artifact's folder and reference."""
    recipe = Recipe(stage, settings, code_fingerprint(stage), inputs)
    write_recipe(store, recipe)
    file = recipe_path(store, recipe.reference)
    command = [sys.executable, SCRIPTS / f"{stage}.py", file, "--store", store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return store / recipe.reference, recipe.reference


def save_shards(store, split, answers):
    """Writes the answers as artifacts, two shards per model; returns (models' names, references)."""
    names, references = [], []
    for name, frame in answers.items():
        for shard, subjects in enumerate((SUBJECTS[::2], SUBJECTS[1::2])):
            recipe = Recipe("answers", {"split": split, "name": name, "shard": shard}, "")
            references.append(recipe.reference)
            names.append(name)
            folder = store / references[-1]
            folder.mkdir(parents=True)
            frame[frame["subject"].isin(subjects)].to_parquet(folder / "answers.parquet")
            write_manifest(folder, recipe, {})
    return names, references


@pytest.mark.slow
def test_the_scripts_from_answers_to_the_table(tmp_path, fits, scores):
    names, val = save_shards(tmp_path, "val", experts(8, 0, val=True))
    settings = {"models": ["m0", "m1"], "answers": names, "seed": 0, "section": Asking().scored()}
    made, reference = run_script("fits", tmp_path, settings, {"answers": val})
    assert read_fits(made)["methods"].keys() == fits["methods"].keys()
    names, test = save_shards(tmp_path, "test", experts(30, 1))
    inputs = {"fits": reference, "answers": test}
    made, _ = run_script("mixture", tmp_path, settings | {"published": PUBLISHED}, inputs)
    found = json.loads((made / "mixture.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(without_nan(scores)))
    assert "| 40.51 |" in (made / "mixture.md").read_text(encoding="utf-8")
    rows = pd.read_parquet(made / "answers.parquet")
    assert len(rows) == 240 * len(METHODS)
