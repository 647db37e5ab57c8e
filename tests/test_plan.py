"""The plan is a pure function of the settings."""

import copy
import shutil
import subprocess
import sys

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import recipe_path
from planning import AFTER_PPO, ASKED, OWN_DATA, WITHOUT_DIALOGUES, ids, new_stages, with_sft


def test_the_same_settings_give_the_same_plan(planned, default_config):
    assert ids(planned(default_config)) == ids(planned(copy.deepcopy(default_config)))


def test_every_stage_takes_part_and_inputs_come_first(planned, default_config):
    plan = planned(default_config)
    assert {recipe.stage for recipe in plan.recipes.values()} == set(STAGES) - {
        "anchors",
        *OWN_DATA,
    }
    seen = set()
    for reference, recipe in plan.recipes.items():
        assert set(recipe.references()) <= seen
        seen.add(reference)


@pytest.mark.parametrize(
    ("section", "key", "value", "stages"),
    [
        ("ppo", "learning_rate", 0.5, AFTER_PPO),
        ("rewards", "epochs", 9, AFTER_PPO | {"rewards"}),
        ("mmlu", "shots", 3, ASKED | {"report"}),
        ("replies", "per_context", 9, {"replies", "oracle", "report"}),
        (
            "topics",
            "per_subject",
            3,
            set(STAGES) - {"models", "questions", "anchors", *OWN_DATA} - ASKED | AFTER_PPO,
        ),
    ],
)
def test_a_changed_setting_changes_its_stage_and_what_follows(
    planned, default_config, section, key, value, stages
):
    changed = copy.deepcopy(default_config)
    changed.setdefault(section, {})[key] = value
    assert new_stages(planned(default_config), planned(changed)) == stages


def test_batch_sizes_change_no_id_but_the_report(planned, default_config):
    changed = copy.deepcopy(default_config)
    changed["models"]["llama"]["load"] = {"batch_size": 3}
    assert new_stages(planned(default_config), planned(changed)) == {"report"}


def test_the_place_of_the_users_files_changes_no_id(root, tmp_path):
    """Two people with a clone each share what a common store has."""
    plans = []
    for name in ("one", "two"):
        shutil.copytree(root / "config", tmp_path / name / "config")
        config = read_config([tmp_path / name / "config/presets/laptop.yaml"], ["control=none"])
        plans.append(make_plan(read_experiment(config, tmp_path / name), tmp_path / name))
    assert ids(plans[0]) == ids(plans[1])
    topics = {plan.recipes[plan.views["topics"]].runtime["files"]["file"] for plan in plans}
    assert topics == {
        str(tmp_path / name / "config/topics/working-life.jsonl") for name in ("one", "two")
    }
    path = tmp_path / "two/config/topics/working-life.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    changed = make_plan(read_experiment(config, tmp_path / "two"), tmp_path / "two")
    assert {"topics", "dialogues", "ratings"} <= new_stages(plans[0], changed)


def test_a_control_run_shares_all_that_comes_before_reward_training(planned, default_config):
    control = planned({**default_config, "control": "shuffled"})
    shared = ids(planned(default_config)) & ids(control)
    assert {r.split("/")[0] for r in shared} >= {"models", "topics", "dialogues", "ratings", "replies"}
    assert not ids(planned(default_config), "rewards") & ids(control, "rewards")


def test_rounds_start_from_the_last_adapters(planned, default_config):
    plan = planned({**default_config, "rounds": 2})
    assert len(ids(plan, "policies")) == 4
    later = plan.recipes[plan.views["round-2/policies/llama"]]
    assert later.inputs["policy"] == plan.views["round-1/policies/llama"]
    first = planned(default_config)
    assert plan.views["round-1/policies/llama"] == first.views["round-1/policies/llama"]


def test_each_model_learns_from_the_others_ratings(planned, default_config):
    plan = planned(default_config)
    rewards = plan.recipes[plan.views["round-1/rewards/llama"]]
    assert rewards.inputs["ratings"] == [plan.views["round-1/ratings/mixtral"]]


def test_shards_are_jobs_whose_ratings_follow_them(planned, default_config):
    default_config["dialogues"]["shards"] = 3
    plan = planned(default_config)
    rewards = plan.recipes[plan.views["round-1/rewards/llama"]]
    shards = [plan.views[f"round-1/dialogues/shard-{k:02d}"] for k in range(3)]
    assert rewards.inputs["dialogues"] == shards
    assert rewards.inputs["ratings"] == [
        plan.views[f"round-1/ratings/mixtral/shard-{k:02d}"] for k in range(3)
    ]
    assert [plan.recipes[s].settings["shard"] for s in shards] == [[0, 3], [1, 3], [2, 3]]


def test_models_in_several_pairs_learn_from_all_partners(planned, default_config):
    default_config["models"]["third"] = default_config["models"]["llama"] | {"seed": 5}
    default_config["pairs"] = [["llama", "mixtral"], ["llama", "third"], ["third", "third"]]
    plan = planned(default_config)
    inputs = {n: plan.recipes[plan.views[f"round-1/rewards/{n}"]].inputs for n in ("llama", "third")}
    names = {reference: name for name, reference in plan.views.items()}
    assert [names[r] for r in inputs["llama"]["ratings"]] == [
        "round-1/ratings/mixtral/llama-mixtral",
        "round-1/ratings/third/llama-third",
    ]
    assert [names[r] for r in inputs["third"]["ratings"]] == [
        "round-1/ratings/llama/llama-third",
        "round-1/ratings/third/third-third",
    ]
    assert [names[r] for r in inputs["third"]["dialogues"]] == [
        "round-1/dialogues/llama-third",
        "round-1/dialogues/third-third",
    ]
    everybody = planned({**default_config, "pairs": "round_robin"})
    talks = [
        r for r in everybody.recipes.values() if r.stage == "dialogues" and r.settings["round"] == 1
    ]
    assert [r.settings["pair"] for r in talks] == [
        ["llama", "mixtral"],
        ["llama", "third"],
        ["mixtral", "third"],
    ]


def test_without_rounds_the_models_talk_about_everything_and_nothing_is_tuned(planned, default_config):
    plan = planned({**default_config, "rounds": 0})
    stages = {recipe.stage for recipe in plan.recipes.values()}
    assert not stages & {"rewards", "policies", "replies", "oracle"} and "report" in stages
    (dialogues,) = [r for r in plan.recipes.values() if r.stage == "dialogues"]
    assert not dialogues.settings["held_out_only"]
    assert dialogues.reference in ids(planned(default_config))  # tuning later starts from them


@pytest.mark.parametrize(
    "roles",
    [
        ["proponent", "opponent"],
        ["interviewer", "interviewee"],
        ["impostor", "detective"],
        ["colleague", "colleague"],
    ],
)
def test_other_games_need_other_roles_only(planned, default_config, roles):
    default_config["prompts"] = "config/prompts"
    before = planned(default_config)
    default_config["dialogues"]["roles"] = roles
    plan = planned(default_config)
    assert "dialogues" in new_stages(before, plan)
    assert not new_stages(before, plan) & {"models", "topics", "questions"}
    (first,) = [r for n, r in plan.recipes.items() if n == plan.views["round-1/dialogues"]]
    assert set(first.settings["prompts"]) == {"opening", *roles}


def test_the_view_links_what_is_planned_and_nothing_else(planned, default_config, tmp_path):
    plan = planned(default_config)
    plan.store = tmp_path
    stale = plan.folder() / "round-7/topics"
    stale.parent.mkdir(parents=True)
    stale.symlink_to("nowhere")
    plan.write_view()
    plan.write_view()
    link = plan.folder() / "round-1/policies/llama"
    assert not stale.is_symlink()
    assert (
        link.parent.joinpath(link.readlink()).resolve()
        == (tmp_path / plan.views["round-1/policies/llama"]).resolve()
    )


def test_a_chat_template_changes_ids_by_its_text_and_not_by_its_path(planned, default_config, tmp_path):
    name = next(iter(default_config["models"]))
    path = tmp_path / "chat.jinja"
    default_config["models"][name].setdefault("load", {})["chat_template"] = str(path)
    with pytest.raises(UserError, match=f"models.{name}.load.chat_template: .*chat.jinja: No such file"):
        planned(default_config)
    path.write_text("{{ messages }}", encoding="utf-8")
    before = planned(default_config)
    dialogues = next(r for r in before.recipes.values() if r.stage == "dialogues")
    assert dialogues.settings["load"][name]["chat_template"] == "{{ messages }}"
    path.write_text("{{ messages }}.", encoding="utf-8")
    assert "models" not in new_stages(before, planned(default_config))
    assert {"topics", "dialogues", "ratings"} <= new_stages(before, planned(default_config))


@pytest.mark.slow
def test_a_large_experiments_report_job_starts(tmp_path, root, default_config):
    """Linux refuses an argument of more than 128 KiB, so jobs get their recipes as files."""
    llama = default_config["models"]["llama"]
    config = default_config | {"models": {f"m{i}": llama for i in range(8)}, "pairs": "round_robin"}
    config |= {"rounds": 3, "dialogues": default_config["dialogues"] | {"shards": 16}}
    plan = make_plan(read_experiment(config, root), root)
    (report,) = [recipe for recipe in plan.recipes.values() if recipe.stage == "report"]
    assert len(report.to_json()) > 2**17
    plan.store = tmp_path
    plan.write_recipes()
    command = [sys.executable, root / "workflow/scripts/report.py", "--store", tmp_path]
    file = recipe_path(tmp_path, report.reference)
    done = subprocess.run([*command, file], capture_output=True, text=True)
    assert done.returncode == 1 and "the artifact is not finished" in done.stderr


def test_a_model_tuned_on_instructions_takes_the_models_place(planned, default_config):
    plan = planned(with_sft(default_config, models=["llama"]))
    tuned, base = plan.views["sft/llama"], plan.views["models/llama"]
    assert plan.recipes[tuned].inputs == {"model": base, "instructions": plan.views["instructions"]}
    loaded = {
        reference
        for recipe in plan.recipes.values()
        if recipe.stage not in ("sft", "report")
        for reference in recipe.references()
    }
    assert tuned in loaded and base not in loaded
    assert plan.views["models/mixtral"] in loaded and "sft/mixtral" not in plan.views
    report = plan.recipes[plan.views["report"]].inputs
    assert base in report["models"] and report["sft"] == [tuned]


def test_a_change_of_sft_makes_no_model_and_no_instructions_again(planned, default_config):
    before = planned(with_sft(default_config))
    changed = new_stages(before, planned(with_sft(default_config, learning_rate=1e-3)))
    assert changed == (
        set(STAGES) - {"models", "instructions", "questions", "anchors"} - WITHOUT_DIALOGUES
    )
    split = new_stages(before, planned(with_sft(default_config, held_out_share=0.5)))
    assert split == changed | {"instructions"}


def test_models_with_the_same_weights_are_tuned_once(planned, default_config):
    config = with_sft(default_config)
    config["models"]["mixtral"] = config["models"]["llama"]
    plan = planned(config)
    assert plan.views["sft/llama"] == plan.views["sft/mixtral"]
