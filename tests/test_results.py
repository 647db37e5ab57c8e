"""Results in a notebook: tidy tables whose ids join, and errors that name what is known."""

import copy
import os
import subprocess
import sys

import expertchat
import pandas as pd
import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import artifact_path
from expertchat.report.page import write_report
from expertchat.report.summary import summarise
from small_experiment import FACTS, ROOT, asking_config, small_config, write_experiment


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the small experiment and its view; neither the report nor val answers are made."""
    folder = tmp_path_factory.mktemp("store")
    write_experiment(folder, small_config(rounds=2))
    plan = make_plan(read_experiment(small_config(rounds=2), ROOT), ROOT)
    plan.store = folder
    plan.write_recipes()
    plan.write_view()
    return folder


@pytest.fixture(scope="module")
def run(store):
    return expertchat.open_experiment("demo", store)


def test_tables_are_tidy_and_their_ids_join(run):
    topics, turns = run.topics(), run.turns(round=1)
    assert topics["topic_id"].is_unique and set(turns["topic_id"]) == set(topics["topic_id"])
    assert not turns.duplicated(["dialogue_id", "turn"]).any()
    assert list(turns[turns["dialogue_id"] == "sailing-00/s0"]["model"]) == ["llama", "mixtral"]
    ratings, candidates = run.ratings(round=1), run.candidates(round=1)
    replies = ratings[ratings["scope"] == "reply"]
    assert set(replies["item_id"]) == set(candidates["candidate_id"])
    dialogues = ratings[ratings["scope"] == "dialogue"]
    assert set(dialogues["item_id"]) == set(turns["dialogue_id"])


def test_rounds_are_a_column_and_can_be_chosen(run):
    assert sorted(run.turns()["round"].unique()) == [1, 2, 3]
    assert set(run.ratings(round=3)["round"]) == {3}
    steps = run.ppo_steps("llama")
    assert list(steps.columns[:2]) == ["round", "model"] and set(steps["model"]) == {"llama"}
    assert sorted(steps["round"].unique()) == [1, 2] and len(steps) == 40
    assert sorted(run.replies("mixtral")["round"].unique()) == [0, 1, 2]
    answers = run.answers("llama", split="test")
    assert sorted(answers["round"].unique()) == [0, 1, 2] and answers["p_A"].between(0, 1).all()
    assert not answers.duplicated(["round", "subject", "index"]).any()
    assert len(run.preferences("llama", round=2)) == 4
    assert run.mixtures(round=1)["method"].nunique() > 3


def test_only_ratings_that_count_come_without_asking_for_controls(tmp_path):
    run = write_experiment(tmp_path, small_config())
    path = run.folder("ratings", 1, "llama") / "ratings.parquet"
    table = pd.read_parquet(path)
    table.assign(canary=(table["scope"] == "reply").map({True: "plea", False: ""})).to_parquet(path)
    assert set(run.ratings(1).query("rater == 'llama'")["scope"]) == {"dialogue"}
    assert set(run.ratings(1, controls=True).query("rater == 'llama'")["scope"]) == {"dialogue", "reply"}


def test_artifacts_tell_what_is_there(run):
    table = run.artifacts()
    assert not table["id"].duplicated().any()
    report = table[table["stage"] == "report"].iloc[0]
    assert not report["finished"] and pd.isna(report["seconds"])
    assert table[table["stage"] == "policies"]["finished"].all()
    assert str(run) == f"<experiment demo: {table['finished'].sum()} of {len(table)} artifacts finished>"


def test_what_two_models_share_is_one_job_with_both_names(tmp_path):
    llama = asking_config()["models"]["a"]
    run = write_experiment(tmp_path, asking_config(models={"ada": llama, "eva": llama}))
    shared = {"models of ada and eva", "answers of ada/test and eva/test"}
    assert shared <= set(run.jobs)
    assert len(run.jobs) == len({artifact.reference for artifact in run.all_artifacts})
    assert summarise(run)["seconds"]["answers"] == FACTS["seconds"]
    table = run.artifacts()
    labels = table[table["stage"] == "answers"]["label"]
    assert list(labels) == ["answers of ada/test", "answers of eva/test"]
    assert set(run.answers()["model"]) == {"ada", "eva"}
    write_report(summarise(run), run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "answers of ada/test and eva/test" in page


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda run: run.ppo_steps("lama"), "policies: no model 'lama' in demo; known: llama, mixtral"),
        (lambda run: run.turns(round=7), "dialogues: no round 7 in demo; known: 1, 2, 3"),
        (lambda run: run.answers("llama", split="tset"), "no split 'tset' in demo; known: test, val"),
        (lambda run: run.ratings(model="lama"), "no model 'lama' in demo; known: llama, mixtral"),
        (lambda run: run.ratings(scope="replies"), "no scope 'replies' in demo; known: dialogue, reply"),
        (lambda run: run.answers("llama", split="val"), "is not finished"),
        (lambda run: run.summary(), "report is not finished"),
        (lambda run: run.find("judging"), "no stage judging"),
    ],
)
def test_a_wrong_name_tells_the_known_ones(run, read, words):
    with pytest.raises(UserError) as caught:
        read(run)
    assert words in str(caught.value)


def test_an_unknown_experiment_tells_the_known_ones(store, tmp_path):
    with pytest.raises(UserError, match=r"dmeo: no such experiment in .*; known experiments: demo"):
        expertchat.open_experiment("dmeo", store)
    with pytest.raises(UserError, match="known experiments: none"):
        expertchat.open_experiment("demo", tmp_path)


def test_an_experiment_can_be_opened_while_it_runs(store, run):
    """Of what is missing only the methods that need it complain."""
    missing = next(a for a in run.find("dialogues", 2))
    hidden = missing.folder.with_name("hidden")
    os.rename(missing.folder, hidden)
    try:
        other = expertchat.open_experiment("demo", store)
        assert len(other.turns(round=1)) == len(run.turns(round=1))
        with pytest.raises(UserError, match=r"dialogues of round 2 is not finished \(1 of 3"):
            other.turns()
    finally:
        os.rename(hidden, missing.folder)


def test_neither_snakemake_nor_torch_is_imported(store):
    code = (
        "import sys, expertchat; run = expertchat.open_experiment('demo', sys.argv[1]);"
        "run.turns(), run.ratings(), run.answers('llama'), run.artifacts();"
        "print(sorted({'torch', 'transformers', 'snakemake'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_view_of_the_files_is_that_of_the_store(run, store):
    for artifact in run.all_artifacts:
        assert artifact.folder == artifact_path(store, artifact.reference)


def test_overall_ratings_are_those_of_the_report(run):
    """Every dialogue on held-out topics is rated 4 + n and 6 + n after n rounds, in all categories."""
    table = run.overall_ratings(split="held_out")
    means = table.groupby(["round", "model"])["overall"].mean()
    assert means.to_dict() == {(n, m): 4.0 + n for n in (1, 2, 3) for m in ("llama", "mixtral")}
    assert set(run.overall_ratings(round=2, scope="reply")["scope"]) == {"reply"}


def test_usable_ratings_are_those_above_the_floor_of_the_settings(run):
    assert run.settings["min_valid_mass"] == 0.5
    assert run.ratings(round=1)["usable"].all()  # their mass is 0.9
    strict = copy.copy(run)
    strict.settings = {**run.settings, "min_valid_mass": 0.95}
    ratings = strict.ratings(round=1)
    assert not ratings["usable"].any() and ratings["score"].isna().all()
    assert strict.overall_ratings(1)["overall"].isna().all()


def test_each_rater_has_one_check_of_its_anchors_a_round(run):
    checks = run.anchor_checks()
    assert list(zip(checks["round"], checks["rater"], strict=True)) == [
        (number, rater) for number in (1, 2, 3) for rater in ("llama", "mixtral")
    ]
    assert checks["blind"].isna().all() and set(checks["reason"]) == {"there are no anchors"}
