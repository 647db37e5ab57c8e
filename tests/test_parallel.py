"""Several processes train as one does; where one of them fails, all end, and the job tells why."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from expertchat.engine import parallel
from expertchat.errors import UserError
from expertchat.pipeline import processes
from expertchat.pipeline.processes import own_place, run_together
from expertchat.pipeline.slurm import nodes_of_job
from small_policy import GROUPS, make_reward_model
from test_sft import save_family
from train_together import KINDS

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "train_together.py"


def train(what, model, data, work, count) -> list[dict]:
    """The log of a training by `count` processes."""
    work.mkdir()
    if count == 1:
        return KINDS[what](model, data, work)
    command = [sys.executable, str(SCRIPT), what, *map(str, (model, data, work))]
    run_together(command, count, 1, work)
    return json.loads((work / "log.json").read_text())


@pytest.mark.parametrize(
    ("what", "count"),
    [
        *(
            ("sft", 2),
            ("sft", 4),
            ("sft, resumed", 2),
            ("sft, packed", 2),
            ("sft, adapter", 2),
            ("rewards", 2),
        ),
        *(("rewards", 4), ("rewards, length head", 2), ("ppo", 2), ("ppo", 4), ("grpo", 2)),
    ],
)
def test_several_processes_train_as_one(
    what,
    count,
    llama_folder,
    instructions,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = instructions
    if what in GROUPS:
        data, _ = make_reward_model(llama_folder, tmp_path / "reward")
    compare(what, count, llama_folder, data, tmp_path)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gptj", "mpt"])
def test_several_processes_tune_each_family_as_one(
    architecture, tokenizer, instructions, tmp_path, monkeypatch
):
    """Each of them has a part of all weights."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_family(architecture, tokenizer, tmp_path / "base")
    compare("sft", 2, tmp_path / "base", instructions, tmp_path)


def compare(what, count, model, data, folder):
    """Requires that a training by `count` processes has the log and the weights of one by one."""
    alone = train(what, model, data, folder / "alone", 1)
    together = train(what, model, data, folder / "together", count)
    assert len(alone) == len(together) > 2
    for one, several in zip(alone, together, strict=True):
        assert one.keys() == several.keys()
        for name, value in one.items():
            assert several[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("fails", r"^topics.yaml, line 3: it is wrong \(in process 2 of 3\)$"),
        ("is killed", "^process 2 of 3 was ended by SIGKILL, as when the machine runs out of memory$"),
        ("diverges", "no longer have the same weights"),
    ],
)
def test_a_process_that_goes_wrong_ends_all_and_the_job_tells_why(what, words, tmp_path):
    command = [sys.executable, str(SCRIPT), what, *["none"] * 2, str(tmp_path)]
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        run_together(command, 3, 1, tmp_path)
    assert time.monotonic() - began < 60  # what a job is promised, several times what it takes


def test_processes_do_not_outlive_their_job(tmp_path):
    """The job is killed while they wait for each other."""
    waiting = "import time, sys; from pathlib import Path; "
    waiting += "from expertchat.pipeline.processes import begin, own_place; "
    waiting += "work = Path(sys.argv[1]); place = own_place(); begin(work, place); import os; "
    waiting += "(work / f'pid-{place.rank}').write_text(str(os.getpid())); time.sleep(300)"
    job = "import sys; from pathlib import Path; "
    job += "from expertchat.pipeline.processes import run_together; "
    job += "run_together([sys.executable, '-c', sys.argv[2], sys.argv[1]], 2, 1, Path(sys.argv[1]))"
    started = subprocess.Popen([sys.executable, "-c", job, str(tmp_path), waiting])
    pids = [tmp_path / f"pid-{rank}" for rank in range(2)]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started.kill()
    started.wait()
    alive = [int(path.read_text()) for path in pids]
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in alive if Path(f"/proc/{pid}").exists()]
        time.sleep(0.1)
    assert not alive


def test_a_process_on_its_own_gets_back_what_it_gives():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.arange(3.0)
    parallel.sum_gradients([weight])
    assert weight.grad.tolist() == [0, 1, 2]
    assert parallel.share("abc") == list("abc") and parallel.gathered("ab", 2) == ["a", "b"]
    assert parallel.from_first(lambda: 5) == 5 and parallel.summed({"a": 0.5}) == {"a": 0.5}
    told = []
    report = parallel.for_all(told.append, own=3, every=10)
    for amount in (1, 0, 2):
        report(amount)
    assert told == [3, 0, 7]
    assert parallel.block(torch.arange(3)).tolist() == [0, 1, 2]
    assert parallel.stacked(torch.ones(2)).tolist() == [[1, 1]]
    parallel.require_equal([weight])


def test_the_place_of_a_process_is_in_its_environment(monkeypatch):
    assert own_place() is None and nodes_of_job() == 1
    monkeypatch.setattr(os, "environ", {processes.COUNT: "8", processes.ADDRESS: "tcp://node1:5000"})
    os.environ |= {"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_JOB_NUM_NODES": "2"}
    place = own_place()
    assert (place.rank, place.count, place.gpu) == (6, 8, 2) and nodes_of_job() == 2
    os.environ |= {processes.RANK: "3"}
    assert (own_place().rank, own_place().gpu) == (3, 3)


def test_threads_are_divided_among_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert processes._environment(4, 4, "file:///x")["OMP_NUM_THREADS"] == "1"
    assert processes._environment(4, 2, "tcp://x:1")["OMP_NUM_THREADS"] == "3"
