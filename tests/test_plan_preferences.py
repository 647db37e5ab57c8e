"""Experiments on human preferences: their plan, and settings that make no sense."""

import copy

import pytest
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from planning import HUB_FILE, LEARNING, changed, fault_of, ids, new_stages

MODEL = {"source": "hub", "repository": "a/b", "revision": "c"}
SERVER = {"source": "server", "load": {"server": {"url_env": "X", "model": "m"}}}
SETTINGS = LEARNING
INSTRUCTIONS = {"instructions": [HUB_FILE]}


def plan_of(root, **extra):
    return make_plan(read_experiment(copy.deepcopy(SETTINGS | extra), root), root)


def test_the_stages_of_learning_from_preferences(root):
    plan = plan_of(root, sft=INSTRUCTIONS)
    assert set(plan.views) == {
        "models/smol",
        "instructions",
        "sft/smol",
        "preferences",
        "round-1/rewards/smol",
        "round-1/policies/smol",
        "replies/smol/base",
        "replies/smol/sft",
        "round-1/replies/smol/tuned",
        "round-1/rewards/judge/smol",
        "round-1/judgements/smol/reward_model",
        "report",
    }
    own, judge = (plan.recipes[plan.views[f"round-1/rewards/{n}"]] for n in ("smol", "judge/smol"))
    assert (own.settings["split"], judge.settings["split"]) == ("train", "judge")
    assert own.inputs["model"] == plan.views["sft/smol"]
    assert judge.inputs["model"] == plan.views["models/smol"]  # the policy's own training is not in it
    policy = plan.recipes[plan.views["round-1/policies/smol"]]
    assert policy.inputs["rewards"] == plan.views["round-1/rewards/smol"]
    judged = plan.recipes[plan.views["round-1/judgements/smol/reward_model"]]
    assert judged.settings["contestants"] == ["base", "sft", "tuned"]
    assert judged.inputs["rewards"] == plan.views["round-1/rewards/judge/smol"]
    assert {r.stage for r in plan.recipes.values()} <= set(STAGES)


def test_without_sft_or_ppo_there_are_fewer_contestants(root):
    judged = plan_of(root).views
    assert "replies/smol/sft" not in judged and "replies/smol/base" in judged
    only_rewards = plan_of(root, rounds=0)
    assert not ids(only_rewards, "policies", "judgements") and ids(only_rewards, "rewards")


def test_models_of_equal_weights_share_a_judge(root):
    plan = plan_of(root, models={"one": MODEL, "two": MODEL})
    assert len(ids(plan, "rewards")) == 3  # one each, and one that judges both


def test_a_model_that_is_asked_judges_in_its_own_words(root):
    judges = {"judges": ["reward_model", "gpt"]}
    plan = plan_of(root, models={"smol": MODEL, "gpt": SERVER}, judgements=judges)
    judged = plan.recipes[plan.views["round-1/judgements/smol/gpt"]]
    assert "fence" in judged.settings["prompt"] and "rewards" not in judged.inputs
    assert not any("gpt" in view for view in plan.views if view.startswith("round-1/policies"))


def test_a_change_runs_what_depends_on_it(root):
    before = plan_of(root, sft=INSTRUCTIONS)
    ppo = plan_of(root, sft=INSTRUCTIONS, ppo={"steps": 3})
    assert new_stages(before, ppo) == {"policies", "replies", "judgements", "report"}
    judge = plan_of(root, sft=INSTRUCTIONS, judgements={"judges": []})
    assert new_stages(before, judge) == {"report"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("pairs", [["smol", "smol"]], "pairs: with preferences no dialogues are generated"),
        ("topics", {}, "topics: with preferences no dialogues are generated"),
        ("control", "shuffled", "control: 'shuffled'; only ratings are shuffled"),
        ("rounds", 2, "rounds: 2; preferences do not change between rounds"),
        ("models.smol", SERVER, "preferences: no model has weights here"),
        ("preferences.models", ["big"], "preferences.models: 'big' is not a model; known: smol"),
        ("judgements.judges", ["gpt"], "judgements.judges: 'gpt' is not a model; known: smol"),
        ("preferences.judge_share", 0, "preferences.judge_share: 0; the judge reward_model needs pairs"),
        ("preferences.judge_share", 0.9, "with held_out_share 0.2 nothing is left to train on"),
        ("preferences.held_out_share", 0, "must be greater than 0"),
        ("preferences.data", [], "preferences.data: []"),
        ("preferences.data", [HUB_FILE], "preferences.data.0.format"),
        (
            "preferences.data",
            [{"source": "file", "path": "nowhere.jsonl", "format": "hh-rlhf"}],
            "preferences.data: nowhere.jsonl; no such file",
        ),
        (
            "preferences.data",
            [HUB_FILE | {"file": "d.parquet", "format": "hh-rlhf"}],
            "preferences.data: d.parquet; unknown file type",
        ),
        ("models", {"judge": MODEL}, "models: 'judge' has a meaning among the results"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(root, path, value, words):
    assert words in fault_of(changed(copy.deepcopy(SETTINGS), path, value), root)


def test_a_judge_that_is_tuned_is_refused(root):
    settings = copy.deepcopy(SETTINGS) | {"judgements": {"judges": ["smol"]}}
    settings["preferences"]["models"] = ["smol"]
    assert "judgements.judges: 'smol' is tuned" in fault_of(settings, root)
