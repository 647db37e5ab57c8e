"""What a job in SLURM asks it for: its time limit, and to be started again."""

import json
import math
import time

import pytest
from expertchat import checkpoints
from expertchat.checkpoints import Checkpoints, TimeIsUp
from expertchat.engine import loading
from expertchat.errors import UserError
from expertchat.pipeline import slurm
from expertchat.pipeline.locks import is_dead, this_process
from expertchat.pipeline.processes import CONTINUES, PROCESSES, run_together


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A function that puts a program of SLURM on the path: a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "42")

    def make(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return make


def test_work_ends_shortly_before_the_time_limit(command, monkeypatch):
    now = 1_000_000.0
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{now + 3600:.0f}")
    assert slurm.deadline(now) == now + 3600 - 180
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{now + 60:.0f}")
    assert slurm.deadline(now) == now + 45


def test_older_versions_of_slurm_are_asked_for_the_limit(command, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    end = time.time() + 7200
    command("squeue", time.strftime("echo %Y-%m-%dT%H:%M:%S", time.localtime(end)))
    assert slurm.deadline(time.time()) == pytest.approx(end - 180, abs=2)
    command("squeue", "echo NONE")
    assert slurm.deadline(time.time()) == math.inf


def test_without_slurm_there_is_no_limit(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.deadline(time.time()) == math.inf


def test_a_job_asks_to_be_started_again(command, tmp_path, capfd):
    command("scontrol", f'echo "$@" > {tmp_path}/asked')
    assert slurm.requeue() and (tmp_path / "asked").read_text() == "requeue 42\n"
    command("scontrol", "echo Requested operation is presently disabled >&2; exit 1")
    assert not slurm.requeue()
    assert "presently disabled" in capfd.readouterr().err


def test_the_work_is_saved_before_the_job_ends(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path)
    assert not saved.due
    monkeypatch.setattr(checkpoints, "deadline", time.time() - 1)
    assert saved.due
    with pytest.raises(TimeIsUp), saved.writing("1") as folder:
        (folder / "work").write_text("done")
    assert (saved.find("1") / "work").read_text() == "done"


def test_processes_that_train_together_end_as_their_job_does(tmp_path):
    script = f"touch {tmp_path}/{PROCESSES}/{CONTINUES}; exit 75"
    with pytest.raises(TimeIsUp):
        run_together(["sh", "-c", script], 2, 1, tmp_path)


def test_the_lock_of_an_earlier_start_of_the_same_job_is_dead(command, monkeypatch):
    command("squeue", "echo RUNNING")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    first = this_process()
    assert not is_dead(first)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert is_dead(first) and not is_dead(this_process())
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert not is_dead(first)  # another job: it lives, on this host
    assert json.loads(json.dumps(vars(first)))["restarts"] == 1


def test_gpus_that_pytorch_does_not_see_stop_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1,2,3")
    monkeypatch.delenv("EXPERTCHAT_DEVICE", raising=False)
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading.torch.version, "cuda", None)
    with pytest.raises(
        UserError, match=r"the GPUs 0,1,2,3 to this job, but this PyTorch .* without CUDA"
    ):
        loading.check_gpus()

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040)\nmore")

    monkeypatch.setattr(loading.torch.version, "cuda", "12.6")
    monkeypatch.setattr(loading.torch.cuda, "init", fail)
    with pytest.raises(UserError, match=r"driver on your system is too old \(found version 11040\);"):
        loading.check_gpus()
    monkeypatch.setenv("EXPERTCHAT_DEVICE", "cpu")
    loading.check_gpus()
