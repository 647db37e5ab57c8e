"""Which settings of raters and ratings make which artifacts again."""

import copy

import pytest
import yaml
from planning import ids, new_stages


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
