"""Which questions are planned for which models, and which answers they share."""

import pytest
from expertchat.errors import UserError
from planning import ASKED, ids, new_stages


def test_without_mmlu_no_question_is_asked(planned, default_config):
    plan = planned({**default_config, "mmlu": None})
    assert not {r.stage for r in plan.recipes.values()} & ({"questions"} | ASKED)


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
        assert len(plan.inputs(stage, recipe.id, "answers")) == 1  # Snakemake makes it once
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
