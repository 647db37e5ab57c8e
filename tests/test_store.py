"""Artifacts are published in one step, and damage is detected and described."""

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


def test_publishing_again_replaces_the_artifact(tmp_path):
    make(tmp_path)
    path = make(tmp_path, "other")
    assert (path / "sub/a.txt").read_text() == "other"
    assert artifacts.find_damage(path) == []
    assert not list((tmp_path / "work/removed").iterdir())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_written_for_the_owner_only_can_be_read_by_those_who_share_the_store(
    tmp_path, umask, mode
):
    made = artifacts.work_path(tmp_path, RECIPE.reference) / "out"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"w")
    (made / "model.safetensors").chmod(0o600)  # as the library safetensors leaves it
    artifacts.write_manifest(made, RECIPE, {"seconds": 1})
    before = os.umask(umask)
    try:
        path = artifacts.publish(tmp_path, RECIPE, made)
    finally:
        os.umask(before)
    assert (path / "model.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda p: p.write_text("jello"), "checksum"),
        (lambda p: p.write_text("hell"), "4 bytes instead of 5"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_damage_is_described(tmp_path, harm, words):
    path = make(tmp_path)
    harm(path / "sub/a.txt")
    (fault,) = artifacts.find_damage(path)
    assert "sub/a.txt" in fault and words in fault


def test_a_link_without_its_target_is_damage(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (tmp_path / "far").mkdir()
    (made / "model").symlink_to(tmp_path / "far")
    artifacts.write_manifest(made, RECIPE, {})
    assert artifacts.find_damage(made) == []
    os.rmdir(tmp_path / "far")
    assert "target" in artifacts.find_damage(made)[0]


def test_a_half_written_manifest_is_a_user_error(tmp_path):
    path = make(tmp_path)
    (path / "manifest.json").write_text(json.dumps({})[:1])
    with pytest.raises(UserError, match="not JSON"):
        artifacts.read_manifest(path)
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        artifacts.find_damage(path)
