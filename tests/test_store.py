"""Artifacts are published in one step, and damage is detected and described."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from expertchat.pipeline import store as artifacts
from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.upkeep import finished_artifacts

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
    assert find_damage(path) == []
    assert not list((tmp_path / "topics" / artifacts.MOVING).iterdir())


def test_every_file_is_on_the_disk_before_the_artifact_appears(tmp_path, monkeypatch):
    synced, rename = [], os.rename

    def note(path):
        synced.append(path)

    def check(old, new):
        assert set(synced) == {*Path(old).rglob("*"), Path(old)}
        rename(old, new)

    monkeypatch.setattr(artifacts, "sync", note)
    monkeypatch.setattr(os, "rename", check)
    assert make(tmp_path).parent == synced[-1]


def test_a_removal_that_was_interrupted_is_ended_by_the_next(tmp_path, monkeypatch):
    path = make(tmp_path)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "unlink", killed)
        patched.setattr(os, "rmdir", killed)
        artifacts.remove_artifact(tmp_path, RECIPE.reference)
    assert not path.exists() and list((tmp_path / "topics" / artifacts.MOVING).iterdir())
    make(tmp_path)
    artifacts.remove_artifact(tmp_path, RECIPE.reference)
    assert not list((tmp_path / "topics" / artifacts.MOVING).iterdir())


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system than `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("far", ["work", "topics"])
def test_work_and_artifacts_can_be_on_different_file_systems(tmp_path, elsewhere, far):
    (tmp_path / far).symlink_to(elsewhere)
    path = make(tmp_path)
    assert (path / "sub/a.txt").read_text() == "hello" and find_damage(path) == []
    path = make(tmp_path, "other")
    (path / "manifest.json").unlink()
    artifacts.restore_manifest(tmp_path, RECIPE.reference)
    assert (path / "sub/a.txt").read_text() == "other" and find_damage(path) == []
    assert finished_artifacts(tmp_path) == [RECIPE.reference]
    files = [file for file in (*tmp_path.rglob("*"), *elsewhere.rglob("*")) if file.is_file()]
    assert {file.resolve().parent for file in files} == {path.resolve(), path.resolve() / "sub"}
    artifacts.remove_artifact(tmp_path, RECIPE.reference)
    assert not any(file.is_file() for file in (*tmp_path.rglob("*"), *elsewhere.rglob("*")))


def test_a_copy_to_another_file_system_that_fails_leaves_nothing_and_can_be_made_again(
    tmp_path, monkeypatch
):
    rename = os.rename

    def across(old, new):
        if "work" in Path(old).parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new)

    def full(path):
        if artifacts.MOVING in Path(path).parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", across)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(artifacts, "sync", full)
        make(tmp_path)
    assert finished_artifacts(tmp_path) == []
    assert not list((tmp_path / "topics" / artifacts.MOVING).iterdir())
    shutil.rmtree(tmp_path / "work")
    assert find_damage(make(tmp_path)) == []
    assert not list((tmp_path / "topics" / artifacts.MOVING).iterdir())


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
    (fault,) = find_damage(path)
    assert "sub/a.txt" in fault and words in fault


def linked(tmp_path):
    """(an artifact with a link to a folder of the user's, the folder)"""
    far = tmp_path / "far"
    (far / "sub").mkdir(parents=True)
    (far / "sub/weights.safetensors").write_bytes(b"w" * 100)
    (far / "config.json").write_text("{}")
    (far / ".cache").mkdir()
    (far / ".cache/lock").write_text("")
    made = artifacts.work_path(tmp_path, RECIPE.reference) / "out"
    made.mkdir(parents=True)
    (made / "model").symlink_to(far)
    artifacts.write_manifest(made, RECIPE, {})
    return artifacts.publish(tmp_path, RECIPE, made), far


def test_a_link_without_its_target_is_damage(tmp_path):
    path, far = linked(tmp_path)
    assert find_damage(path) == []
    shutil.rmtree(far)
    assert "target" in find_damage(path)[0]
    far.mkdir()
    assert len(find_damage(path)) == 2  # both files are missing
    (path / "model").unlink()
    assert "target" in find_damage(path)[0]


def test_changed_files_behind_a_link_are_found(tmp_path):
    path, far = linked(tmp_path)
    weights = far / "sub/weights.safetensors"
    status = weights.stat()
    (far / ".cache/lock").write_text("x")
    (far / "notes.txt").write_text("mine")
    os.utime(weights)  # another time, the same bytes
    assert find_damage(path) == []
    weights.write_bytes(b"v" * 100)
    assert "weights.safetensors: it has changed" in find_damage(path)[0]
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # hidden from all but a full check
    assert find_damage(path) == [] and len(find_damage(path, full=True)) == 1


def test_files_that_are_not_listed_are_damage(tmp_path):
    path = make(tmp_path)
    (path / "sub/b.txt").write_text("more")
    (path / "empty").mkdir()
    (fault,) = find_damage(path)
    assert "sub/b.txt: not in the list of files" in fault


def test_an_artifact_in_the_place_of_another_is_damage(tmp_path):
    path = make(tmp_path)
    other = path.with_name("0" * 12)
    path.rename(other)
    assert f"the recipe in manifest.json is that of {RECIPE.reference}" in find_damage(other)[0]
    other.rename(path)
    assert find_damage(path) == []
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["recipe"]["settings"]["seed"] = 2
    (path / "manifest.json").write_text(json.dumps(manifest))
    copied, moved = find_damage(path)
    assert "manifest.json: it differs from its copy" in copied
    assert "the recipe in manifest.json is that of" in moved


def test_a_file_that_changed_with_its_checksum_is_found_by_those_who_read_it(tmp_path):
    path = make(tmp_path)
    reader = Recipe("dialogues", {}, "c0de", {"topics": RECIPE.reference})
    folder = artifacts.artifact_path(tmp_path, reader.reference)
    folder.mkdir(parents=True)
    (folder / "dialogues.jsonl").write_text("[]")
    artifacts.write_manifest(folder, reader, {}, tmp_path)
    assert find_damage(path) == find_damage(folder) == []
    make(tmp_path)  # the same files, made again
    assert find_damage(folder) == []
    make(tmp_path, "other")
    assert find_damage(path) == []
    assert f"it was made of other files of {RECIPE.reference}" in find_damage(folder)[0]
    artifacts.remove_artifact(tmp_path, RECIPE.reference)
    assert find_damage(folder) == []  # what was pruned cannot be compared


def test_a_deleted_manifest_is_put_back_and_an_interruption_leaves_no_damage(tmp_path, monkeypatch):
    path = make(tmp_path)
    manifest = (path / "manifest.json").read_bytes()
    (path / "manifest.json").unlink()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        artifacts.restore_manifest(tmp_path, RECIPE.reference)
    artifacts.restore_manifest(tmp_path, RECIPE.reference)
    assert (path / "manifest.json").read_bytes() == manifest and find_damage(path) == []


def test_a_fault_of_an_inputs_manifest_is_not_one_of_its_reader(tmp_path):
    path = make(tmp_path)
    reader = Recipe("dialogues", {}, "c0de", {"topics": RECIPE.reference})
    folder = artifacts.artifact_path(tmp_path, reader.reference)
    folder.mkdir(parents=True)
    artifacts.write_manifest(folder, reader, {}, tmp_path)
    manifest = json.loads((path / "manifest.json").read_text()) | {"files": {"sub/a.txt": {}}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert find_damage(path) and not find_damage(folder)


NO_MANIFESTS = (
    *(b"", b"{", b"\xff", b"[]", b"3", b"{}", b"[" * 100_000),
    *(b'{"recipe": 3, "files": {}}', b'{"recipe": {}, "files": {}}'),
    b'{"recipe": {"stage": "topics"}, "files": []}',
)


@pytest.mark.parametrize("text", NO_MANIFESTS)
def test_what_is_no_manifest_is_damage(tmp_path, text):
    path = make(tmp_path)
    (path / "manifest.json").write_bytes(text)
    (fault,) = find_damage(path)
    assert "manifest.json" in fault
    (path / "manifest.json").unlink()
    assert "not finished" in find_damage(path)[0]
    (path / "manifest.json").mkdir()
    assert "manifest.json" in find_damage(path)[0]


NO_LISTS = ("7", "[]", '{"a": 3}', '{"a": {}}', '{"a": {"link": 3, "files": 4}}')


@pytest.mark.parametrize("files", NO_LISTS)
def test_a_list_of_files_that_is_none_is_damage(tmp_path, files):
    path = make(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text()) | {"files": json.loads(files)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert find_damage(path)
