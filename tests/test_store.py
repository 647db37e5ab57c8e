"""Artifacts appear whole, and damage is noticed and named."""

import json
import os

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import store as artifacts
from expertchat.pipeline.recipes import Recipe

RECIPE = Recipe("topics", {"seed": 1}, "c0de")


def make(store, text="hello"):
    made = artifacts.work_path(store, RECIPE.reference) / "out"
    made.mkdir(parents=True)
    (made / "sub").mkdir()
    (made / "sub/a.txt").write_text(text)
    artifacts.write_manifest(made, RECIPE, {"seconds": 1})
    return artifacts.publish(store, RECIPE, made)


def test_a_manifest_names_recipe_files_and_checksums(tmp_path):
    manifest = artifacts.read_manifest(make(tmp_path))
    assert manifest["recipe"]["id"] == RECIPE.id
    assert list(manifest["files"]) == ["sub/a.txt"]
    assert manifest["files"]["sub/a.txt"]["size"] == 5
    assert Recipe.from_dict(manifest["recipe"]) == RECIPE


def test_publishing_again_replaces_the_whole(tmp_path):
    make(tmp_path)
    place = make(tmp_path, "other")
    assert (place / "sub/a.txt").read_text() == "other"
    assert artifacts.faults(place) == []
    assert not list((tmp_path / "work/removed").iterdir())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda p: p.write_text("jello"), "checksum"),
        (lambda p: p.write_text("hell"), "4 bytes, 5 when made"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_damage_is_named(tmp_path, harm, words):
    place = make(tmp_path)
    harm(place / "sub/a.txt")
    (fault,) = artifacts.faults(place)
    assert "sub/a.txt" in fault and words in fault


def test_a_link_counts_by_its_target(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (tmp_path / "far").mkdir()
    (made / "model").symlink_to(tmp_path / "far")
    artifacts.write_manifest(made, RECIPE, {})
    assert artifacts.faults(made) == []
    os.rmdir(tmp_path / "far")
    assert "target" in artifacts.faults(made)[0]


def test_a_half_written_manifest_is_an_error_of_one_sentence(tmp_path):
    place = make(tmp_path)
    (place / "manifest.json").write_text(json.dumps({})[:1])
    with pytest.raises(UserError, match="not JSON"):
        artifacts.read_manifest(place)
    (place / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        artifacts.faults(place)
