"""An id depends on everything that determines an artifact, and on nothing else."""

from dataclasses import replace

from expertchat.pipeline.recipes import Recipe, canonical, short_hash

RECIPE = Recipe("topics", {"seed": 1, "rate": 2.0}, "c0de", {"models": ["models/a", "models/b"]})


def test_an_id_is_stable_over_releases():
    # a changed value would orphan every stored artifact: change it only on purpose
    assert RECIPE.id == short_hash(["topics", {"rate": 2, "seed": 1}, "c0de", RECIPE.inputs])
    assert short_hash({"a": 1}) == "015abd7f5cc5"


def test_spelling_does_not_change_an_id():
    assert canonical({"a": 2.0, "b": [1, 2]}) == canonical({"b": (1.0, 2), "a": 2})


def test_every_part_that_matters_changes_an_id():
    others = [
        replace(RECIPE, stage="ratings"),
        replace(RECIPE, settings={"seed": 2, "rate": 2.0}),
        replace(RECIPE, code="c0df"),
        replace(RECIPE, inputs={"models": ["models/b", "models/a"]}),
    ]
    assert len({RECIPE.id, *(other.id for other in others)}) == 5


def test_label_and_runtime_do_not():
    assert replace(RECIPE, label="x", runtime={"batch_size": 7}).id == RECIPE.id


def test_a_recipe_survives_json():
    import json

    assert Recipe.from_dict(json.loads(RECIPE.to_json())) == RECIPE
    assert RECIPE.references() == ["models/a", "models/b"]
