"""Two runs of one experiment at the same time have the same settings, or the second one stops."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
import yaml
from expertchat.errors import UserError
from expertchat.pipeline import locks
from expertchat.pipeline.locks import Owner
from expertchat.pipeline.runs import RUNS, begin_run
from expertchat.pipeline.store import manifest_path, work_path
from small_workflow import BIN, ROOT, small_config, snakemake, write_config

ELSEWHERE = Owner("node3", 7, "1", "", "t")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.02)


@pytest.fixture
def plan_in(planned, default_config, tmp_path):
    """A function from changed settings to a plan whose store is in `tmp_path`."""

    def make(**changes):
        plan = planned(default_config | changes)
        plan.store = tmp_path / "results"
        return plan

    return make


def written(store):
    """The links of all experiments and the recipes."""
    links = {path: os.readlink(path) for path in store.rglob("*") if path.is_symlink()}
    return links, {path: path.read_text() for path in store.glob("recipes/*/*.json")}


RUN = """
import sys, yaml
from pathlib import Path
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.runs import begin_run
root, config, store = Path(sys.argv[1]), yaml.safe_load(sys.argv[2]), Path(sys.argv[3])
plan = make_plan(read_experiment(config, root), root)
plan.store = store
begin_run(plan)
print("running", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(default_config, tmp_path):
    """A process that runs the default experiment."""
    arguments = [str(ROOT), yaml.safe_dump(default_config), str(tmp_path / "results")]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"running\n"
        yield process
        process.kill()


def test_other_settings_are_refused_and_the_running_view_stays(other, plan_in, tmp_path):
    store = tmp_path / "results"
    before = written(store)
    assert len(before[0]) > 10 and len(before[1]) > 10
    with pytest.raises(UserError, match=f"^process {other.pid} on .* with other settings: wait") as said:
        begin_run(plan_in(seed=5))
    assert "\n" not in str(said.value) and "--config name=" in str(said.value)
    assert written(store) == before
    begin_run(plan_in())  # shares the work
    begin_run(plan_in(seed=5, name="another"))
    begin_run(plan_in(seed=5, control="shuffled"))  # has links of its own


@pytest.mark.parametrize("end", ["ended", "killed"])
def test_a_run_that_has_ended_holds_nobody_up_and_leaves_nothing(other, plan_in, tmp_path, end):
    before = written(tmp_path / "results")
    if end == "killed":
        other.kill()
    else:
        other.stdin.close()
    other.wait()
    folder = plan_in().folder() / RUNS
    assert len(list(folder.iterdir())) == (end == "killed")
    begin_run(plan_in(seed=5))
    assert len(list(folder.iterdir())) == 1
    assert written(tmp_path / "results")[0] != before[0]


def leave(folder, owner):
    folder.mkdir(parents=True)
    path = folder / f"0123456789ab-{owner.token}"
    path.write_text(f"{owner}\n{json.dumps(asdict(owner))}\n")
    return path


@pytest.mark.parametrize("clock", [0, 2**33], ids=["behind", "ahead"])
def test_a_run_on_another_host_must_give_a_sign_of_life(plan_in, monkeypatch, capsys, clock):
    monkeypatch.setattr(locks, "SILENCE", 0.5)
    path = leave(plan_in().folder() / RUNS, ELSEWHERE)
    os.utime(path, (clock, clock))  # the clock of that host is far off
    plan, ended = plan_in(), threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.05):
            number += 1
            os.utime(path, (clock + number, clock + number))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 on node3 runs the experiment"):
            begin_run(plan)
    finally:
        ended.set()
        thread.join()
    began = time.monotonic()
    begin_run(plan)
    assert 0.5 <= time.monotonic() - began < 10 and not path.exists()
    assert "waiting for a sign of life of process 7 on node3" in capsys.readouterr().err


def test_a_file_that_names_nobody_is_removed(plan_in, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 0.1)
    path = leave(plan_in().folder() / RUNS, ELSEWHERE)
    path.write_text("x")
    begin_run(plan_in())
    assert not path.exists()


def test_work_that_was_left_by_a_job_that_had_published_is_removed(plan_in):
    plan = plan_in()
    finished, held, unfinished, *_ = plan.recipes
    for reference in (finished, held, unfinished):
        (work_path(plan.store, reference) / "checkpoints").mkdir(parents=True)
    for reference in (finished, held):
        manifest_path(plan.store, reference).parent.mkdir(parents=True)
        manifest_path(plan.store, reference).write_text("{}")
    with locks.locked(work_path(plan.store, held), held):
        begin_run(plan)
    left = [work_path(plan.store, reference).exists() for reference in (finished, held, unfinished)]
    assert left == [False, True, True]


@pytest.mark.slow
def test_snakemake_refuses_other_settings_of_a_running_experiment(tmp_path):
    config = small_config()
    write_config(tmp_path, config)
    command = [str(BIN / "snakemake"), "models", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--directory", str(tmp_path), "--configfile", str(tmp_path / "config.yaml")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    folder = tmp_path / "results/experiments/demo" / RUNS
    with subprocess.Popen(command, **quiet) as first:
        while not list(folder.glob("[!.]*-*")) or (folder / "lock").exists():
            assert first.poll() is None
            time.sleep(0.05)
        before = written(tmp_path / "results")
        refused = snakemake(tmp_path, "models", "--config", "seed=5", check=False)
        assert f"process {first.pid} on " in refused and "with other settings" in refused
        assert "Traceback" not in refused
        assert written(tmp_path / "results") == before
        shared = snakemake(tmp_path, "models")
        assert first.wait() == 0, shared
    assert not list(folder.iterdir())
    snakemake(tmp_path, "models", "--config", "seed=5")
    assert written(tmp_path / "results")[0] != before[0]
