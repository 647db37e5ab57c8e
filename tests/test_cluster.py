"""The workflow on a real SLURM of two nodes, by the profile that its users have.

`make test-slurm` installs SLURM and runs these tests; elsewhere they are skipped, with the reason.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import slurm_cluster as cluster
import torch
import yaml
from expertchat.pipeline.store import read_manifest
from safetensors.torch import load_file
from small_workflow import BIN, ROOT, small_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cluster.why_not() is not None, reason=str(cluster.why_not())),
]
SECONDS = 900  # that a run may take: SLURM holds a job for two minutes that is queued again
TRAINING_SECONDS = 90
QUICK = ["--slurm-init-seconds-before-status-checks", "2"]


@pytest.fixture(scope="module", autouse=True)
def slurm():
    cluster.up()
    yield
    cluster.down()


@pytest.fixture(autouse=True)
def site(monkeypatch):
    """A site whose jobs are small, and whose GPUs do nothing."""
    for name, value in (
        ("PARTITION", "gpu"),
        ("CPUS", "2"),
        ("MEMORY_GB", "2"),
        ("DEVICE", "cpu"),
    ):
        monkeypatch.setenv(f"EXPERTCHAT_{name}", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(folder, config, *arguments) -> list[str]:
    """The command that runs Snakemake with these settings in a folder of its own."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    snakemake = [str(BIN / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), *arguments]
    return [*snakemake, "--directory", str(folder), "--configfile", str(folder / "config.yaml")]


def start(folder, config, *targets) -> subprocess.Popen:
    """Snakemake with the profile of SLURM."""
    arguments = command(folder, config, *targets, "--profile", str(ROOT / "profiles/slurm"), *QUICK)
    log = (folder / "snakemake.log").open("a")
    return subprocess.Popen(arguments, stdout=log, stderr=log, cwd=ROOT)


def finish(process, folder) -> str:
    """What a Snakemake printed that must end well."""
    code = process.wait(SECONDS)
    said = (folder / "snakemake.log").read_text()
    assert code == 0, said[-3000:]
    return said


def new_jobs(before) -> list[dict[str, str]]:
    known = {job["JobId"] for job in before}
    return [job for job in cluster.jobs() if job["JobId"] not in known]


def artifacts(folder) -> dict[str, dict]:
    """The files of all artifacts, with their checksums."""
    paths = (folder / "results").glob("*/*/manifest.json")
    return {f"{p.parent.parent.name}/{p.parent.name}": read_manifest(p.parent)["files"] for p in paths}


def test_a_node_with_four_gpus_for_each_job_that_runs_a_model(tmp_path):
    before = cluster.jobs()
    finish(start(tmp_path, small_config(rounds=1), "ratings", "rewards"), tmp_path)
    jobs = new_jobs(before)
    with_gpus = [job for job in jobs if job["JOB_GRES"] == "gpu:4"]
    assert len(with_gpus) >= 8
    for job in with_gpus:
        assert job["NumNodes"] == "1" and job["JobState"] == "COMPLETED"
    used = {job["NodeList"] for job in with_gpus}
    assert used == {"node1", "node2"}  # side by side: a node has four GPUs


def test_packed_jobs_share_a_node(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_PACK", "1")
    monkeypatch.setenv("EXPERTCHAT_GPU_MEMORY_GB", "16")
    monkeypatch.setenv("EXPERTCHAT_CPUS", "4")
    before = cluster.jobs()
    finish(start(tmp_path, small_config(rounds=0), "answers"), tmp_path)
    jobs = [job for job in new_jobs(before) if "answers" in job["Comment"]]
    assert {job["JOB_GRES"] for job in jobs} == {"gpu:1"} and len(jobs) >= 4
    assert {job["NumCPUs"] for job in jobs} == {"1"}  # a quarter of a node's
    times = sorted((job["StartTime"], job["EndTime"], job["NodeList"]) for job in jobs)
    pairs = itertools.pairwise(times)
    assert any(a[2] == b[2] and b[0] < a[1] for a, b in pairs)  # side by side on one node


def fine_tuning(folder, epochs):
    """Settings with a fine-tuning of one model."""
    records = [
        {"instruction": f"Say the number {n}.", "input": "", "output": f"It is {n}, of course."}
        for n in range(120)
    ]
    (folder / "alpaca.json").write_text(json.dumps(records))
    config = small_config(name="tuned", rounds=0)
    for section in ("mmlu", "mixture", "oracle"):
        config.pop(section, None)
    instructions = [{"source": "file", "path": str(folder / "alpaca.json"), "format": "alpaca"}]
    tuning = {"method": "lora", "epochs": epochs, "batch_size": 4, "models": ["llama"]}
    return config | {"threads": 2, "sft": {"instructions": instructions, **tuning}}


def fine_tuned(folder) -> dict:
    """The files, with checksums, of what a fine-tuning made."""
    return {name: files for name, files in artifacts(folder).items() if name.startswith("sft/")}


def run_alone(folder, epochs):
    """Runs a fine-tuning without SLURM. Returns its settings and the folder of its artifact."""
    config, before = fine_tuning(folder, epochs), set(artifacts(folder))
    arguments = command(folder, config, "sft", "--cores", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(arguments, check=True, capture_output=True, cwd=ROOT, env=environment)
    (made,) = (name for name in set(artifacts(folder)) - before if name.startswith("sft/"))
    return config, folder / "results" / made


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Settings of a training of a minute and a half on this machine, and its artifact without SLURM."""
    folder = tmp_path_factory.mktemp("alone")
    few, more = (read_manifest(run_alone(folder, epochs)[1])["seconds"] for epochs in (2, 12))
    epoch = max((more - few) / 10, 0.2)  # without what every job takes at its start
    return run_alone(folder, round(TRAINING_SECONDS / epoch))


@pytest.fixture
def training(alone, tmp_path):
    """The settings of the training, and its files; `tmp_path` has what it starts from."""
    config, made = alone
    for stage in ("models", "instructions"):
        shutil.copytree(made.parents[1] / stage, tmp_path / "results" / stage, symlinks=True)
    return config, {f"sft/{made.name}": read_manifest(made)["files"]}


def running(before, seconds=300) -> dict[str, str]:
    """The job that trains, once it has trained for a while."""

    def found():
        return [job for job in new_jobs(before) if job["JobState"] == "RUNNING"]

    cluster.wait(lambda: any("sft" in job["Comment"] for job in found()), seconds)
    time.sleep(15)
    return next(job for job in found() if "sft" in job["Comment"])


def test_a_time_limit_costs_no_work(training, tmp_path, monkeypatch):
    config, expected = training
    monkeypatch.setenv("EXPERTCHAT_HOURS", "0.017")  # a minute
    before = cluster.jobs()
    said = finish(start(tmp_path, config, "sft"), tmp_path)
    job = new_jobs(before)[-1]
    assert int(job["Restarts"]) >= 1 and "Error" not in said  # and so no retry was used up
    assert fine_tuned(tmp_path) == expected


def test_a_snakemake_that_is_killed_is_followed_by_one_that_waits_for_its_job(training, tmp_path):
    config, expected = training
    before = cluster.jobs()
    first = start(tmp_path, config, "sft")
    running(before)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finish(start(tmp_path, config, "sft"), tmp_path)
    assert fine_tuned(tmp_path) == expected


def test_a_job_that_is_cancelled_goes_on_where_it_was(training, tmp_path):
    config, expected = training
    before = cluster.jobs()
    process = start(tmp_path, config, "sft")
    cluster.run("scancel", running(before)["JobId"])
    finish(process, tmp_path)
    assert fine_tuned(tmp_path) == expected


def test_a_node_that_dies_is_replaced_by_another(training, tmp_path):
    config, expected = training
    before = cluster.jobs()
    process = start(tmp_path, config, "sft")
    job = running(before)
    cluster.kill_node(job["NodeList"], job["JobId"])
    try:
        finish(process, tmp_path)
    finally:
        cluster.start_node(job["NodeList"])
    assert fine_tuned(tmp_path) == expected
    (again,) = [one for one in new_jobs(before) if one["JobId"] == job["JobId"]]
    assert int(again["Restarts"]) >= 1 or len(new_jobs(before)) > 1


def test_two_nodes_train_one_model(alone, tmp_path, monkeypatch):
    """One process on each node (gloo, as there are no GPUs) learns what one process alone learns."""
    _, made = alone
    few = fine_tuning(tmp_path, epochs=2)
    monkeypatch.setenv("EXPERTCHAT_NODES", "2")
    for stage in ("models", "instructions"):
        shutil.copytree(made.parents[1] / stage, tmp_path / "results" / stage, symlinks=True)
    before = cluster.jobs()
    finish(start(tmp_path, few, "sft"), tmp_path)
    (job,) = [job for job in new_jobs(before) if "sft" in job["Comment"]]
    assert job["NumNodes"] == "2" and job["NodeList"] == "node[1-2]"
    (together,) = fine_tuned(tmp_path)
    one, two = (
        load_file(folder / "results" / together / "model/model.safetensors")
        for folder in (made.parents[2], tmp_path)
    )
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=1e-4, rtol=1e-4)
