"""A node's own copy of a model: made once, whole or not at all."""

import os
import threading

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import staging
from expertchat.pipeline.staging import staged

MODEL, TOPICS = "models/0123456789ab", "topics/0123456789ab"


@pytest.fixture
def store(tmp_path):
    """A store with a model whose weights are a link to a file elsewhere, as those of the hub are."""
    folder = tmp_path / "results" / MODEL / "model"
    folder.mkdir(parents=True)
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    (folder / "config.json").write_text("{}")
    (tmp_path / "results" / TOPICS).mkdir(parents=True)
    return tmp_path / "results"


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_LOCAL_DISK", str(tmp_path / "disk"))
    return tmp_path / "disk"


def test_without_a_local_disk_the_store_itself_is_read(store, monkeypatch):
    monkeypatch.delenv("EXPERTCHAT_LOCAL_DISK", raising=False)
    assert staged(store, MODEL) == store / MODEL


def test_a_model_is_copied_with_the_files_behind_its_links(store, disk):
    copy = staged(store, MODEL)
    assert copy.is_relative_to(disk)
    weights = copy / "model/model.safetensors"
    assert not weights.is_symlink() and weights.read_bytes() == b"w" * 1000
    assert (copy / "model/config.json").read_text() == "{}"


def test_only_models_are_copied(store, disk):
    assert staged(store, TOPICS) == store / TOPICS


def test_jobs_that_start_at_the_same_time_copy_once(store, disk, monkeypatch):
    copies, copy = [], staging._copy

    def counted(*arguments):
        copies.append(arguments)
        copy(*arguments)

    monkeypatch.setattr(staging, "_copy", counted)
    threads = [threading.Thread(target=staged, args=(store, MODEL)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 1


def test_a_copy_that_was_interrupted_is_made_again(store, disk, monkeypatch):
    def killed(folder, copy):
        os.makedirs(copy / "model")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging.shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            staged(store, MODEL)
    assert (staged(store, MODEL) / "model/config.json").is_file()


def test_a_disk_that_is_too_small_is_named(store, disk, monkeypatch):
    usage = staging.shutil.disk_usage("/")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(UserError, match=r"EXPERTCHAT_LOCAL_DISK.*0\.0 GB left"):
        staged(store, MODEL)


def test_a_disk_that_does_not_exist_is_named(store, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPERTCHAT_LOCAL_DISK", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"EXPERTCHAT_LOCAL_DISK=.*file: "):
        staged(store, MODEL)
