"""A job that fails says so in one sentence; the traceback is in its work folder."""

import errno
import signal

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import failures, jobs
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import artifact_path, work_path

RECIPE = Recipe("topics", {"seed": 1}, "c0de")


@pytest.fixture
def fail(tmp_path, monkeypatch):
    """Runs a job that raises an error. Returns what it ends with."""
    monkeypatch.setattr(jobs, "parse_arguments", lambda stage, description: (RECIPE, tmp_path))
    monkeypatch.setattr(jobs, "check_code", lambda recipe: None)
    before = signal.getsignal(signal.SIGTERM)

    def run(error):
        with pytest.raises(SystemExit) as ended, jobs.open_job("topics", "A job."):
            raise error
        return str(ended.value)

    yield run
    signal.signal(signal.SIGTERM, before)


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "no space is left on the disk at /x/y",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "no space is left on the disk: free some, then give",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            "/x: Read-only file system: allow reading",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "/x: Permission denied: allow reading",
        ),
        (MemoryError(), "memory is exhausted: lower load.batch_size"),
        (OutOfMemoryError("CUDA out of memory"), "memory is exhausted: lower load.batch_size"),
        (KeyError("b\nc"), r"unexpected error, KeyError: 'b\nc'"),
        (ValueError("one\ntwo" + 1000 * "x"), "unexpected error, ValueError: one two"),
    ],
)
def test_an_error_is_one_sentence(fail, tmp_path, error, words):
    said = fail(error)
    assert said.startswith(f"topics: {words}") and "\n" not in said and len(said) < 700
    traceback = work_path(tmp_path, RECIPE.reference) / "traceback.txt"
    assert "test_failures.py" in traceback.read_text() and type(error).__name__ in traceback.read_text()
    assert not artifact_path(tmp_path, RECIPE.reference).exists()


def test_a_users_mistake_and_an_interruption_have_their_own_words(fail, tmp_path):
    assert fail(UserError("models.a: wrong")) == "topics: models.a: wrong"
    assert fail(KeyboardInterrupt()).startswith("topics: interrupted; run the same command again")
    assert not (work_path(tmp_path, RECIPE.reference) / "traceback.txt").exists()


def test_without_a_place_for_the_traceback_it_is_shown(fail, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "work_path", lambda store, reference: 1 / 0)
    said = fail(ValueError("x"))
    assert said.startswith("topics: unexpected error, ZeroDivisionError: division by zero\nTraceback")


def test_without_a_work_folder_only_an_unexpected_error_shows_its_traceback(tmp_path):
    assert "Traceback" not in failures.explain(MemoryError(), tmp_path / "missing")
    assert "Traceback" not in failures.explain(PermissionError(errno.EACCES, "no", "/x"), None)
    try:
        raise KeyError("x")
    except KeyError as error:
        assert "Traceback" in failures.explain(error, tmp_path / "missing")
