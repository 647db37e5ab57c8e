"""The plan is a pure function of the settings."""

import copy
import subprocess
import sys

import pytest
import yaml
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import recipe_path


@pytest.fixture
def planned(root):
    return lambda config: make_plan(read_experiment(config, root), root)


def ids(plan, *stages):
    return {r for r, recipe in plan.recipes.items() if not stages or recipe.stage in stages}


def new_stages(before, after):
    return {reference.split("/")[0] for reference in ids(after) - ids(before)}


def test_the_same_settings_give_the_same_plan(planned, default_config):
    assert ids(planned(default_config)) == ids(planned(copy.deepcopy(default_config)))


def test_every_stage_takes_part_and_inputs_come_first(planned, default_config):
    plan = planned(default_config)
    assert {recipe.stage for recipe in plan.recipes.values()} == set(STAGES) - {"anchors"}
    seen = set()
    for reference, recipe in plan.recipes.items():
        assert set(recipe.references()) <= seen
        seen.add(reference)


AFTER_PPO = {
    *("policies", "replies", "answers", "mmlu", "fits", "mixture"),
    *("dialogues", "ratings", "reliability", "oracle", "report"),
}
ASKED = {"answers", "mmlu", "fits", "mixture"}


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
            set(STAGES) - {"models", "questions", "anchors"} - ASKED | AFTER_PPO,
        ),
    ],
)
def test_a_changed_setting_changes_its_stage_and_what_follows(
    planned, default_config, section, key, value, stages
):
    changed = copy.deepcopy(default_config)
    changed.setdefault(section, {})[key] = value
    assert new_stages(planned(default_config), planned(changed)) == stages


def with_rubric(config, path, weight=1, description="shows skill", paraphrases=()):
    """The settings with a rubric of one category, written to `path`."""
    category = {"name": "expertise", "description": description, "weight": weight}
    category["paraphrases"] = [{"name": "skill", "description": text} for text in paraphrases]
    path.write_text(yaml.safe_dump({"low": 1, "high": 5, "categories": [category]}))
    return copy.deepcopy(config) | {"ratings": {"rubric": str(path)}}


def test_a_weight_or_an_unused_paraphrase_does_not_change_ratings(planned, default_config, tmp_path):
    heavy = planned(with_rubric(default_config, tmp_path / "a.yaml"))
    other = with_rubric(default_config, tmp_path / "b.yaml", weight=3, paraphrases=["knows"])
    assert "rewards" in new_stages(heavy, planned(other))
    rated = ids(heavy, "ratings") & ids(planned(other), "ratings")
    assert len(rated) == 2  # round 1; round 2 follows new policies


def test_a_rubrics_words_change_ratings(planned, default_config, tmp_path):
    plain = planned(with_rubric(default_config, tmp_path / "a.yaml"))
    worded = planned(with_rubric(default_config, tmp_path / "b.yaml", description="has skill"))
    assert not ids(plain, "ratings") & ids(worded, "ratings")


def test_third_parties_rate_every_round_and_nothing_learns_from_them(planned, default_config):
    third = default_config["models"]["llama"] | {"seed": 5}
    models = default_config["models"] | {"third": third}
    ratings = default_config["ratings"] | {"third_party": ["third"]}
    plan = planned(default_config | {"models": models, "ratings": ratings})
    for round in (1, 2):
        reference = plan.views[f"round-{round}/ratings/third"]
        readers = {r.stage for r in plan.recipes.values() if reference in r.references()}
        assert readers == {"reliability"}
    assert ids(planned(default_config), "rewards") == ids(plan, "rewards")


ANCHORED = "config/anchors/expert.jsonl"


def test_raters_of_the_same_weights_share_the_anchors_of_all_rounds_and_shards(planned, default_config):
    twin = default_config["models"]["llama"]
    changed = default_config | {"models": {"llama": twin, "mixtral": twin}, "rounds": 2}
    changed["dialogues"] = default_config["dialogues"] | {"shards": 3}
    changed["ratings"] = default_config["ratings"] | {"anchors": ANCHORED}
    plan = planned(changed)
    (anchors,) = ids(plan, "anchors")
    assert plan.views["anchors/llama"] == plan.views["anchors/mixtral"] == anchors
    assert plan.recipes[anchors].label == "anchors of llama and mixtral"
    assert all(plan.recipes[r].inputs["anchors"] == anchors for r in ids(plan, "ratings"))
    assert list(plan.recipes[anchors].references()) == [plan.views["models/llama"]]


def test_tuned_raters_rate_the_anchors_again(planned, default_config):
    ratings = default_config["ratings"] | {"anchors": ANCHORED, "tuned_raters": True}
    plan = planned(default_config | {"ratings": ratings})
    assert len(ids(plan, "anchors")) == 4
    tuned = plan.recipes[plan.views["round-2/anchors/llama"]]
    assert tuned.inputs["policy"] == plan.views["round-1/policies/llama"]
    rated = plan.recipes[plan.views["round-2/ratings/llama"]]
    assert rated.inputs["anchors"] == tuned.reference


def test_another_dialogue_setting_rates_no_anchor_again(planned, default_config):
    ratings = default_config["ratings"] | {"anchors": ANCHORED}
    dialogues = default_config["dialogues"] | {"turns": 6}
    before = planned(default_config | {"ratings": ratings})
    after = planned(default_config | {"ratings": ratings | {"repeats": 1}, "dialogues": dialogues})
    assert ids(before, "anchors") == ids(after, "anchors")
    assert not ids(before, "ratings") & ids(after, "ratings")


def test_batch_sizes_change_no_id_but_the_report(planned, default_config):
    changed = copy.deepcopy(default_config)
    changed["models"]["llama"]["load"] = {"batch_size": 3}
    assert new_stages(planned(default_config), planned(changed)) == {"report"}


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


def test_without_mmlu_no_question_is_asked(planned, default_config):
    plan = planned({**default_config, "mmlu": None})
    assert not {r.stage for r in plan.recipes.values()} & ({"questions"} | ASKED)


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


def test_transcripts_are_rated_by_all_models(planned, default_config, tmp_path):
    path = tmp_path / "talks.json"
    path.write_text('[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]')
    config = {key: default_config[key] for key in ("name", "world", "models", "prompts")}
    config |= {"rounds": 0, "dialogues": {"transcripts": str(path), "shards": 2}}
    plan = planned(config)
    assert len(ids(plan, "models")) == len(ids(plan, "dialogues")) == 2
    assert len(ids(plan, "ratings")) == 4 and not ids(plan, "topics")
    (reliability,) = ids(plan, "reliability")
    assert set(plan.recipes[reliability].inputs["ratings"]) == ids(plan, "ratings")
    (report,) = ids(plan, "report")
    inputs = plan.recipes[report].inputs
    assert set(inputs) == {"models", "anchors", "dialogues", "ratings", "reliability"}
    assert set(inputs["ratings"]) == ids(plan, "ratings")
    path.write_text(path.read_text().replace("hi", "other"))
    assert not ids(planned(config), "dialogues") & ids(plan, "dialogues")


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
    with pytest.raises(
        UserError, match=f"models.{name}.load.chat_template: .*chat.jinja cannot be read"
    ):
        planned(default_config)
    path.write_text("{{ messages }}", encoding="utf-8")
    before = planned(default_config)
    dialogues = next(r for r in before.recipes.values() if r.stage == "dialogues")
    assert dialogues.settings["load"][name]["chat_template"] == "{{ messages }}"
    path.write_text("{{ messages }}.", encoding="utf-8")
    assert "models" not in new_stages(before, planned(default_config))
    assert {"topics", "dialogues", "ratings"} <= new_stages(before, planned(default_config))


def asking_only(config, **mmlu):
    """The models and questions of the default settings, without dialogues."""
    kept = {key: config[key] for key in ("name", "world", "models", "prompts", "ratings")}
    return kept | {"rounds": 0, "mmlu": config["mmlu"] | mmlu}


def test_models_can_answer_questions_without_talking(planned, default_config):
    plan = planned(asking_only(default_config))
    stages = [recipe.stage for recipe in plan.recipes.values()]
    assert set(stages) == {
        *("models", "questions", "answers", "mmlu", "fits", "mixture", "report"),
    }
    assert stages.count("answers") == 4  # two models, two splits
    assert set(plan.views) >= {"answers/llama/test", "answers/mixtral/val", "mmlu", "mixture"}


def test_models_with_the_same_weights_share_what_does_not_depend_on_their_names(planned, default_config):
    config = default_config
    config["models"] = dict.fromkeys(("ada", "eva"), config["models"]["llama"])
    plan = planned(config | {"pairs": [["ada", "eva"]]})
    views, recipes = plan.views, plan.recipes
    assert views["models/ada"] == views["models/eva"]
    assert recipes[views["models/ada"]].label == "models of ada and eva"
    for split in ("test", "val"):
        base = views[f"answers/ada/{split}"]
        assert base == views[f"answers/eva/{split}"]
        assert recipes[base].label == f"answers of ada/{split} and eva/{split}"
        tuned = [views[f"round-1/answers/{name}/{split}"] for name in ("ada", "eva")]
        assert len({base, *tuned}) == 3  # the policies differ
        assert recipes[tuned[0]].label == f"answers of ada/{split} in round 1"
    for stage, view in (("mmlu", "mmlu"), ("fits", "fits"), ("mixture", "mixture")):
        recipe = recipes[views[view]]
        assert len(recipe.inputs["answers"]) == 2 and len(set(recipe.inputs["answers"])) == 1
        assert recipe.settings["answers"] == ["ada", "eva"]
        assert len(plan.inputs(stage, recipe.id)["answers"]) == 1  # Snakemake makes it once
    assert recipes[views["round-1/mmlu"]].settings["before"] == ["ada", "eva"]
    for stage in ("ratings", "rewards", "policies", "replies"):
        assert views[f"round-1/{stage}/ada"] != views[f"round-1/{stage}/eva"]


def test_models_that_are_loaded_differently_answer_for_themselves(planned, default_config):
    llama = default_config["models"]["llama"]
    models = {"ada": llama, "eva": llama | {"load": {"dtype": "bfloat16"}}}
    plan = planned(asking_only(default_config | {"models": models}))
    assert plan.views["models/ada"] == plan.views["models/eva"]
    assert plan.views["answers/ada/test"] != plan.views["answers/eva/test"]


def test_fits_read_answers_to_val_and_nothing_of_test(planned, default_config):
    plan = planned(default_config)
    fits = [recipe for recipe in plan.recipes.values() if recipe.stage == "fits"]
    assert len(fits) == 2
    read, left = set(), [reference for recipe in fits for reference in recipe.references()]
    assert {plan.recipes[r].settings["split"] for r in left} == {"val"}
    while left:  # nor does anything upstream of them
        recipe = plan.recipes[left.pop()]
        read.add((recipe.stage, recipe.settings.get("split")))
        left += recipe.references()
    assert ("answers", "test") not in read and "mmlu" not in {stage for stage, _ in read}


def test_without_mixtures_no_questions_of_val_are_asked(planned, default_config):
    plan = planned(asking_only(default_config, mixture=False))
    splits = {r.settings["split"] for r in plan.recipes.values() if r.stage == "answers"}
    assert splits == {"test"} and not ids(plan, "fits", "mixture")
    default_config["models"].pop("mixtral")
    alone = planned(asking_only(default_config))
    assert len(ids(alone, "answers")) == 1 and len(ids(alone, "mmlu")) == 1
    assert not ids(alone, "fits", "mixture")


def test_shards_of_questions_are_jobs(planned, default_config):
    plan = planned(asking_only(default_config, shards=3))
    mmlu = plan.recipes[plan.views["mmlu"]]
    shards = [f"answers/{name}/test/shard-{k:02d}" for name in ("llama", "mixtral") for k in range(3)]
    assert mmlu.inputs["answers"] == [plan.views[s] for s in shards]
    assert mmlu.settings["answers"] == ["llama"] * 3 + ["mixtral"] * 3
    assert plan.recipes[plan.views[shards[2]]].settings["shard"] == [2, 3]


def test_another_normalization_does_not_ask_the_models_again(planned, default_config):
    def change(formulation, other):
        first, second = (
            planned(asking_only(default_config, formulation=formulation, normalization=n))
            for n in ("none", other)
        )
        return new_stages(first, second)

    read = {"mmlu", "fits", "mixture", "report"}
    assert change("cloze", "tokens") == change("cloze", "characters") == read
    assert change("cloze", "unconditional") == read | {"answers"}  # it takes a pass of its own
    assert change("letter", "tokens") == {"mmlu", "report"}  # which store the settings


def test_an_adapter_belongs_to_its_model(planned, default_config, tmp_path):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder, files in (
        (model, ("config.json", "model.safetensors")),
        (adapter, ("adapter_config.json", "adapter_model.safetensors")),
    ):
        folder.mkdir()
        for file in files:
            (folder / file).write_text("{}", encoding="utf-8")
    default_config["models"]["llama"] = {"source": "path", "path": str(model)}
    plain = planned(asking_only(default_config))
    default_config["models"]["llama"]["adapter"] = str(adapter)
    adapted = planned(asking_only(default_config))
    assert len(ids(adapted, "models") - ids(plain, "models")) == 1
    (adapter / "adapter_model.safetensors").write_text("{ }", encoding="utf-8")
    assert ids(planned(asking_only(default_config)), "models") != ids(adapted, "models")
    with pytest.raises(UserError, match=r"models\.llama\.adapter: .* set rounds to 0"):
        planned(default_config)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"contains no adapter_config\.json"):
        planned(asking_only(default_config))


def test_each_rounds_answers_are_compared_with_the_base_models(planned, default_config):
    plan = planned(default_config | {"rounds": 2})
    base, later = (plan.recipes[plan.views[f"{place}mmlu"]] for place in ("", "round-2/"))
    assert "before" not in base.inputs
    assert later.inputs["before"] == base.inputs["answers"]
    assert later.settings["before"] == ["llama", "mixtral"]


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


@pytest.mark.parametrize("change", [{"min_valid_mass": 0.2}, {"rubric": "weights"}])
def test_what_applies_when_ratings_are_read_asks_no_model_again(
    planned, default_config, change, root, tmp_path
):
    """The floor of the valid mass and the weights of the categories."""
    before = planned(default_config)
    if "rubric" in change:
        rubric = (root / default_config["ratings"]["rubric"]).read_text(encoding="utf-8")
        data = yaml.safe_load(rubric)
        data["categories"][0]["weight"] = 7
        (tmp_path / "rubric.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        change = {"rubric": str(tmp_path / "rubric.yaml")}
    after = planned({**default_config, "ratings": default_config["ratings"] | change})
    same = {"models", "dialogues", "ratings", "replies"}
    for view, reference in before.views.items():
        stage = reference.split("/")[0]
        if stage in same and not view.startswith("round-2") and "round-1/replies" not in view:
            assert after.views[view] == reference
        if stage in ("reliability", "rewards", "oracle", "report"):
            assert after.views[view] != reference
    floors = {after.recipes[r].runtime["ratings"]["min_valid_mass"] for r in ids(after, "ratings")}
    assert floors == {change.get("min_valid_mass", 0.5)}  # for the probe
