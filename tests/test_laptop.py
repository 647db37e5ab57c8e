"""The preset `laptop` and `make laptop`: one pretrained model, two speakers, and the control run."""

import os
import shlex
import subprocess

import pytest
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.settings.mmlu import MMLU


@pytest.fixture
def plan_of(root):
    """The plan of the preset with changed settings."""

    def plan(*overrides):
        config = read_config([root / "config/presets/laptop.yaml"], overrides)
        return make_plan(read_experiment(config, root), root)

    return plan


def test_both_speakers_are_one_model_and_get_a_policy_each(plan_of):
    plan = plan_of()
    assert plan.views["models/ada"] == plan.views["models/ben"]
    assert sum(recipe.stage == "models" for recipe in plan.recipes.values()) == 1
    assert plan.views["round-1/policies/ada"] != plan.views["round-1/policies/ben"]


def test_the_control_run_repeats_nothing_before_reward_training(plan_of):
    plan, control = plan_of(), plan_of("control=shuffled")
    shared = plan.recipes.keys() & control.recipes.keys()
    stages = {plan.recipes[reference].stage for reference in shared}
    assert {"models", "topics", "dialogues", "ratings", "reliability", "replies"} <= stages
    assert {control.recipes[r].stage for r in control.recipes.keys() - shared} >= {"rewards", "policies"}


def commands_of_make(root, *variables, **environment):
    """The commands that `make laptop` would run, as lists of words."""
    make = ["make", "--dry-run", "--no-print-directory", "laptop", *variables]
    ours = ("EXPERTCHAT_DATA", "MAKEFLAGS", "MMLU")  # a make that runs these tests hands its own on
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        make, cwd=root, capture_output=True, text=True, check=True, env=kept | environment
    )
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return [words for words in lines if words[0].endswith(("snakemake", "expertchat", "echo"))]


def options(words):
    """The settings given with --config."""
    return words[words.index("--config") + 1 :]


def test_make_runs_the_experiment_and_its_control_and_shows_both(root):
    said, run, control, *shown = commands_of_make(root)
    assert "not measured; make laptop MMLU=folder" in said[1]
    assert (options(run), options(control)) == (["control=none"], ["control=shuffled"])
    assert [options(words) for words in shown] == [options(run), options(control)]
    for words in (run, control, *shown):
        path = root / words[words.index("--configfile") + 1]
        assert path == root / "config/presets/laptop.yaml"


def test_make_asks_mmlu_if_it_is_told_where_the_questions_are(root, tmp_path):
    (tmp_path / "mmlu").mkdir()
    named = commands_of_make(root, f"MMLU={tmp_path / 'mmlu'}")
    found = commands_of_make(root, EXPERTCHAT_DATA=str(tmp_path))
    assert named == found
    for words in named[1:]:
        section = MMLU(**read_config([], options(words))["mmlu"])
        assert (section.limit, section.questions.path) == (3, str(tmp_path / "mmlu"))
    elsewhere = commands_of_make(root, EXPERTCHAT_DATA=str(tmp_path / "mmlu"))
    assert options(elsewhere[1]) == ["control=none"]
