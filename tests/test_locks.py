"""One job at a time works in a folder, and the lock of a dead job holds nobody up."""

import itertools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import locks
from expertchat.pipeline.locks import Owner, is_dead, lock_holder, locked, start_of, this_process

ELSEWHERE = Owner("node3", 7, "1", "", "t")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.02)


def leave(work, owner):
    """A lock that its owner left."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "lock").write_text(f"{owner}\n{json.dumps(asdict(owner))}\n")


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with locked(tmp_path / "w", "topics/1") as require:
        text = (tmp_path / "w/lock").read_text()
        assert text.startswith(f"process {os.getpid()} on {socket.gethostname()}, SLURM job 42\n")
        assert lock_holder(tmp_path / "w") == text.splitlines()[0]
        require()
    assert not list((tmp_path / "w").iterdir()) and lock_holder(tmp_path / "w") is None


@pytest.mark.parametrize("how", ["ended", "another process has its id"])
def test_the_lock_of_a_dead_process_is_removed(tmp_path, how):
    me = this_process()
    ended = replace(me, process=dead_process()) if how == "ended" else replace(me, started="1")
    leave(tmp_path, ended)
    assert is_dead(ended) and lock_holder(tmp_path) is None
    with locked(tmp_path, "topics/1"):
        assert lock_holder(tmp_path) is not None


@pytest.mark.parametrize("text", ["", "process 3 on host", "{", "x\n[1]\n"])
def test_a_file_that_is_no_lock_is_removed_after_a_while(tmp_path, monkeypatch, text):
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path, "topics/1"):
        pass


@pytest.mark.parametrize("clock", [0, 2**33], ids=["behind", "ahead"])
def test_a_silent_owner_on_another_host_is_given_up_and_a_living_one_is_not(
    tmp_path, monkeypatch, capsys, clock
):
    monkeypatch.setattr(locks, "SILENCE", 0.4)
    leave(tmp_path, ELSEWHERE)
    assert lock_holder(tmp_path) == "process 7 on node3"
    alive = threading.Event()

    def beat():  # the clock of that host is far off
        beats = itertools.count(clock)
        while not alive.wait(0.05):
            os.utime(tmp_path / "lock", (clock, next(beats)))

    thread = threading.Thread(target=beat)
    thread.start()
    began = time.monotonic()
    threading.Timer(1.0, alive.set).start()
    with locked(tmp_path, "topics/1"):
        assert time.monotonic() - began > 1.2
    thread.join()
    assert capsys.readouterr().err.count("topics/1: waiting for process 7 on node3, which makes") == 1


@pytest.mark.parametrize(
    ("answer", "dead"),
    [
        ("echo RUNNING", False),
        ("echo PENDING", False),
        ("true", True),
        ("echo CANCELLED", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_slurm_is_asked_about_jobs_of_other_hosts(tmp_path, monkeypatch, answer, dead):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert is_dead(replace(ELSEWHERE, job="42")) == dead
    assert not is_dead(ELSEWHERE)


@pytest.mark.parametrize("clock", [0, 2**33], ids=["behind", "ahead"])
def test_a_lock_with_a_time_that_is_far_off_does_not_hold_a_job_up(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(locks, "SILENCE", 0.3)
    leave(tmp_path, ELSEWHERE)
    os.utime(tmp_path / "lock", (clock, clock))
    began = time.monotonic()
    with locked(tmp_path, "topics/1"):
        assert 0.3 <= time.monotonic() - began < 10


def test_what_a_process_left_that_was_killed_while_it_took_the_lock_is_removed(tmp_path):
    for token, owner in [("a", replace(this_process(), process=dead_process())), ("b", ELSEWHERE)]:
        leave(tmp_path, owner)
        (tmp_path / "lock").rename(tmp_path / f".lock.{token}")
    with locked(tmp_path, "topics/1"):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", ".lock.b"}


def test_who_was_given_up_does_not_publish(tmp_path):
    with locked(tmp_path, "topics/1") as require:
        leave(tmp_path, ELSEWHERE)
        with pytest.raises(UserError, match="another process took over this work"):
            require()
    assert lock_holder(tmp_path) == "process 7 on node3"  # which keeps its lock


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with locked(tmp_path, "topics/1") as require:
        require()
        with pytest.raises(FileExistsError):
            locks.write_owner(tmp_path / "lock", this_process())


def work_once(folder, counter):
    locks.POLL = 0.01
    for _ in range(5):
        with locked(folder, "topics/1"):
            number = int(counter.read_text())
            time.sleep(0.002)
            counter.write_text(str(number + 1))


def test_many_processes_that_find_a_dead_lock_still_work_one_at_a_time(tmp_path):
    leave(tmp_path / "w", replace(this_process(), process=dead_process()))
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=work_once, args=(tmp_path / "w", tmp_path / "counter")) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "40"
    assert not list((tmp_path / "w").iterdir())


def test_the_start_of_a_process_is_known():
    assert start_of(os.getpid()).isdigit() and start_of(dead_process()) == ""
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()  # it has ended, or is about to
    end = time.monotonic() + 60
    while start_of(zombie.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert start_of(zombie.pid) == ""
    zombie.wait()
