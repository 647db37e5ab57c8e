"""A run that hears nothing of its jobs says so, and what SLURM knows of them."""

import logging
import time

import pytest
import slurm_cluster
from expertchat.pipeline.silence import Silence, queue_words
from quiet_run import quiet_run

CONTROLLER = "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)"


def test_the_queue_in_words():
    lines = "RUNNING|9:10|None\nRUNNING|1:02:03|None\nPENDING|0:00|Resources\nPENDING|0:00|Priority\n"
    assert queue_words(lines + "COMPLETING|5:00|None") == (
        "SLURM: 2 running (the longest for 1:02:03), 2 pending (Resources, Priority), 1 completing"
    )
    assert "the longest for 3-00:00:00" in queue_words("RUNNING|INVALID|None\nRUNNING|3-00:00:00|None")
    assert queue_words("").startswith(
        "SLURM's queue has none of this run: if that stays so, end the run"
    )


def event(name, **fields):
    return logging.makeLogRecord({"event": name, **fields})


@pytest.mark.parametrize(
    ("squeue", "sacct", "words"),
    [
        ("echo 'PENDING|0:00|Resources'", "true", "SLURM: 1 pending (Resources)"),
        (
            f"echo '{CONTROLLER}' >&2; exit 1",
            "true",
            "squeue cannot tell how they are: SLURM's controller",
        ),
        ("true", "echo 'sacct: storage is disabled' >&2; exit 1", "fails: sacct: storage is disabled"),
    ],
)
def test_silence_is_broken_while_jobs_are_under_way(tmp_path, monkeypatch, squeue, sacct, words):
    for name, script in {"squeue": squeue, "sacct": sacct}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    silence = Silence(said.append, "a-run", "sacct", seconds=0.5)
    time.sleep(0.8)
    assert said == []  # nothing has been submitted
    silence.emit(event("job_started", jobs=[1, 2]))
    slurm_cluster.wait(lambda: len(said) >= 2, 10)  # again and again
    assert said[0].startswith("no job has started or ended for 0 minutes, 2 are under way; ")
    assert words in said[0] and "\n" not in said[0]
    silence.emit(event("job_finished", job_id=1))
    silence.emit(event("job_error", jobid=2))
    time.sleep(0.3)
    count = len(said)
    time.sleep(0.8)
    assert len(said) == count


@pytest.mark.slow
def test_snakemake_breaks_its_silence(tmp_path):
    said = quiet_run(tmp_path)
    assert said.count("no job has started or ended for 0 minutes, 1 are under way") >= 2
