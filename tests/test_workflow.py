"""The real workflow on small settings: what runs, what does not, and what survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from expertchat.pipeline.plan import STAGES
from expertchat.records import read_json
from expertchat.tables import read_tables
from planning import AFTER_PPO, WITHOUT_DIALOGUES
from safetensors.torch import load_file
from small_workflow import (
    BIN,
    ROOT,
    check_columns,
    dry_run,
    planned_rules,
    small_config,
    snakemake,
    support,
    write_config,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished experiment, to be harmed."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_the_loop_ends_with_a_report_and_its_figures(finished):
    view = finished / "results/experiments/demo"
    summary = json.loads((view / "report/summary.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in summary["rows"]] == ["llama", "mixtral"]
    keys = {
        "rating_oracle_spearman",
        "reward_pair_accuracy",
        "oracle_win_rate",
        "mmlu_before",
        "mmlu_after",
    }
    for row in summary["rows"]:
        assert keys <= set(row)
        low, high = row["oracle_win_rate_interval"]
        assert low <= row["oracle_win_rate"] <= high
    assert summary["seconds"]["policies"] > 0 and summary["verdict"]
    assert "<html" in (view / "report/report.html").read_text(encoding="utf-8")
    policy = view / "round-1/policies/llama"
    assert read_json(policy / "outcome.json")["tuned"] == (policy / "adapter").exists()
    assert (finished / "logs/policies").is_dir()
    assert not list((finished / "results/work").rglob("lock")), "finished jobs leave no work behind"


def test_nothing_runs_twice(finished):
    assert dry_run(finished, small_config()) == set()


def test_a_changed_learning_rate_runs_ppo_and_what_follows_and_nothing_before(finished):
    assert dry_run(finished, small_config(ppo={"learning_rate": 0.5})) == AFTER_PPO
    assert dry_run(finished, small_config()) == set()


def test_stages_are_targets(finished):
    write_config(finished, small_config(dialogues={"turns": 4}))
    output = snakemake(finished, "dialogues", "--dry-run")
    assert "dialogues" in planned_rules(output) and "report" not in planned_rules(output)
    write_config(finished, small_config())


def test_a_second_experiment_reuses_what_it_shares(finished):
    stages = dry_run(finished, small_config(name="other", dialogues={"turns": 4}))
    assert not stages & {"models", "questions", "topics"} and "dialogues" in stages
    write_config(finished, small_config())


def test_a_comment_runs_nothing_and_code_runs_its_stage(finished, tmp_path):
    copy = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".venv", ".git", ".snakemake", "results", "logs", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    here = {"root": copy, "PYTHONPATH": str(copy / "workflow")}
    assert dry_run(finished, small_config(), **here) == set()
    module = copy / "workflow/expertchat/policies/ppo.py"
    text = module.read_text(encoding="utf-8")
    module.write_text("# A comment.\n" + text.replace('"""PPO, as', '"""Changed. PPO, as'))
    assert dry_run(finished, small_config(), **here) == set()
    module.write_text(text + "\nEXTRA = 1\n")
    assert dry_run(finished, small_config(), **here) == AFTER_PPO


def wait_for(condition, seconds: float = 120) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_killed_ppo_job_resumes_and_ends_with_the_same_adapter(copied):
    view = "results/experiments/demo/round-1"
    support((copied / view / "rewards/llama").resolve())
    place = (copied / view / "policies/llama").resolve()
    shutil.rmtree(place)
    snakemake(copied, "policies")
    expected = load_file(place / "adapter/adapter_model.safetensors")
    work = copied / "results/work/policies" / place.name
    shutil.rmtree(place)
    command = [str(BIN / "snakemake"), "policies", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(copied), "--configfile", str(copied / "config.yaml"), "--cores", "1"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = work / "checkpoints/steps"
    wait_for(lambda: any(saved.glob("*/checksums.json")))
    holder = (work / "lock").read_text()
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    assert running.wait(timeout=60) != 0
    assert any(saved.iterdir()) and not place.exists()
    output = snakemake(copied, "policies")
    assert load_file(place / "adapter/adapter_model.safetensors").keys() == expected.keys()
    for name, tensor in load_file(place / "adapter/adapter_model.safetensors").items():
        assert tensor.equal(expected[name]), output


def start(folder, *targets):
    """A running Snakemake in a process group of its own."""
    command = [str(BIN / "snakemake"), *targets, "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.parametrize("killed", ["snakemake", "snakemake and job"])
def test_after_a_killed_snakemake_the_same_command_goes_on(copied, killed):
    place = (copied / "results/experiments/demo/topics").resolve()
    work = copied / "results/work/topics" / place.name
    shutil.rmtree(place)
    running = start(copied, "topics")
    wait_for(lambda: (work / "lock").exists() and (work / "lock").read_text())
    if killed == "snakemake":
        running.kill()
    else:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait(timeout=60)
    if killed == "snakemake":
        wait_for((place / "manifest.json").exists)  # the job lives on and publishes
        made = (place / "topics.jsonl").stat()
    snakemake(copied, "topics")
    assert (place / "manifest.json").exists()
    if killed == "snakemake":
        after = (place / "topics.jsonl").stat()
        assert (after.st_ino, after.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_an_artifact_from_the_future_does_not_fail_the_jobs_that_read_it(tmp_path):
    """As a clock leaves it that was ahead: Snakemake would fail each job, and delete its output."""
    (tmp_path / "mine.csv").write_text(
        "topic,subject,split\nRye bread,baking,train\nWet clay,pottery,held_out\n", encoding="utf-8"
    )
    file = {"path": str(tmp_path / "mine.csv"), "mode": "replace"}
    write_config(tmp_path, small_config(topics={"file": file, "decontaminate": True}))
    snakemake(tmp_path, "questions")
    (manifest,) = (tmp_path / "results/questions").glob("*/manifest.json")
    os.utime(manifest, (2**33, 2**33))
    snakemake(tmp_path, "topics")
    assert list((tmp_path / "results/topics").glob("*/manifest.json"))


def test_finished_work_is_not_made_again_because_snakemake_deleted_its_output(copied):
    place = (copied / "results/experiments/demo/topics").resolve()
    manifest, made = (place / "manifest.json").read_bytes(), (place / "topics.jsonl").stat()
    (place / "manifest.json").unlink()
    output = snakemake(copied, "topics")
    assert "is already finished" in output
    assert (place / "manifest.json").read_bytes() == manifest
    assert (place / "topics.jsonl").stat().st_ino == made.st_ino


def test_a_corrupted_artifact_is_noticed_named_and_remade_on_request(copied):
    topics = (copied / "results/experiments/demo/topics").resolve()
    original = (topics / "topics.jsonl").read_bytes()
    (topics / "topics.jsonl").write_bytes(original.replace(b"a", b"b", 1))

    def expertchat(*arguments):
        command = [str(BIN / "expertchat"), *arguments, "--store", "results"]
        return subprocess.run(command, cwd=copied, capture_output=True, text=True)

    found = expertchat("verify")
    assert found.returncode == 1
    assert f"topics/{topics.name}" in found.stdout and "checksum" in found.stdout
    # a job that reads it refuses to start
    dialogues = (copied / "results/experiments/demo/round-1/dialogues").resolve()
    refused = subprocess.run(
        [sys.executable, ROOT / "workflow/scripts/dialogues.py", dialogues / "manifest.json"],
        cwd=copied,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1 and f"topics/{topics.name} is damaged" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert expertchat("verify", "--remove").returncode == 0
    assert "topics" in planned_rules(snakemake(copied, "all", "--dry-run"))
    snakemake(copied, "all")
    assert (topics / "topics.jsonl").read_bytes() == original
    assert expertchat("verify").returncode == 0


def test_bad_settings_end_before_any_job_with_one_message(tmp_path):
    write_config(tmp_path, small_config(ppo={"learning_rte": 1}))
    output = snakemake(tmp_path, "all", check=False)
    assert "ppo.learning_rte: unknown key; did you mean learning_rate?" in output
    assert "Traceback" not in output and not (tmp_path / "results").exists()


def test_lint_has_no_finding_but_one_environment_for_all_rules():
    command = [str(BIN / "snakemake"), "--lint", "--snakefile", str(ROOT / "Snakefile")]
    output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = (output.stdout + output.stderr).splitlines()
    findings = {line.strip() for line in lines if "    * " in line}
    assert findings == {"* Specify a conda environment or container for each rule.:"}
    assert sum("Lints for rule make_" in line for line in lines) == len(STAGES)


PRESETS = sorted(path.name for path in (ROOT / "config/presets").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_every_preset_can_be_planned(preset, profile, tmp_path):
    config = yaml.safe_load((ROOT / "config/presets" / preset).read_text(encoding="utf-8"))
    for name, model in config["models"].items():
        if model["source"] == "path":  # which the user is told to put there
            model["path"] = str(tmp_path / name)
            for file in ("config.json", "model.safetensors"):
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / file).write_text("{}", encoding="utf-8")
    write_config(tmp_path, config)
    output = snakemake(tmp_path, "all", "--profile", str(ROOT / "profiles" / profile), "--dry-run")
    expected = {
        "pairs": {"topics", "dialogues", "ratings", "rewards", "policies"},
        "sft": {"instructions", "sft", "report"},
        "mmlu": {"answers", "fits", "mixture"},
        "speeds": {"speeds", "report"},
    }
    assert expected[next(key for key in expected if key in config)] <= planned_rules(output)
    assert not (tmp_path / "results").exists(), "a dry run writes nothing"


def test_two_processes_make_the_same_reward_model_and_policy_up_to_rounding(finished, copied):
    view = "results/experiments/demo/round-1"
    reward, policy = ((copied / view / stage / "llama").resolve() for stage in ("rewards", "policies"))
    alone = read_json(reward / "training.json")[0]["final"]
    shutil.rmtree(reward)
    snakemake(copied, "rewards", "--config", "processes=2")
    assert read_json(reward / "manifest.json")["processes"] == 2
    together = read_json(reward / "training.json")[0]["final"]
    assert [e["loss"] for e in together] == pytest.approx([e["loss"] for e in alone], abs=1e-4)
    support(reward)
    adapters = []
    for processes in (1, 2):
        shutil.rmtree(policy)
        snakemake(copied, "policies", "--config", f"processes={processes}")
        assert read_json(policy / "manifest.json").get("processes", 1) == processes
        assert not (copied / "results/work/policies" / policy.name).exists()
        adapters.append(load_file(policy / "adapter/adapter_model.safetensors"))
    for name, tensor in adapters[0].items():
        assert torch.allclose(tensor, adapters[1][name], rtol=0, atol=1e-4), name


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_training_asks_slurm_for_four_gpus_of_each_node(copied, tmp_path, nodes):
    """What sbatch is really called with, by an sbatch that writes it down and refuses."""
    (tmp_path / "bin").mkdir()
    answers = {
        "sbatch": '[ "$1" = --version ]',
        "scontrol": 'case "$2" in config) echo "AccountingStorageType = accounting_storage/none";; '
        '*) echo "PartitionName=gpu Default=YES MaxTime=UNLIMITED";; esac',
        "sinfo": "",
        **dict.fromkeys(("sacctmgr", "sshare"), "echo me"),
        **dict.fromkeys(("squeue", "sacct", "scancel"), "exit 1"),
    }
    for name, answer in answers.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/sh\necho "{name} $@" >> "{tmp_path}/calls"\n{answer}\n')
        tool.chmod(0o755)
    write_config(copied, small_config(ppo={"learning_rate": 0.5}))
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    arguments = ["policies", "--profile", str(ROOT / "profiles/slurm"), "--retries", "0"]
    arguments += ["--slurm-init-seconds-before-status-checks", "1"]
    site = {"EXPERTCHAT_PARTITION": "gpu", "EXPERTCHAT_ACCOUNT": "me", "EXPERTCHAT_NODES": nodes}
    snakemake(copied, *arguments, check=False, PATH=path, **site)
    calls = [c for c in (tmp_path / "calls").read_text().splitlines() if c.startswith("sbatch -")]
    calls = [call for call in calls if call != "sbatch --version"]
    assert calls and all("--gres=gpu:4" in call and f"--nodes={nodes}" in call for call in calls)
    assert all(" -p gpu " in call and " -A me " in call for call in calls)


@pytest.mark.parametrize("option", ["--list", "--summary", "--dag", "--unlock", "--dry-run"])
def test_looking_leaves_the_view_as_it_is(finished, option):
    def links():
        found = (finished / "results/experiments").rglob("*")
        return {path: os.readlink(path) for path in found if path.is_symlink()}

    before, recipes = links(), set((finished / "results/recipes").rglob("*.json"))
    write_config(finished, small_config(seed=5))
    snakemake(finished, "all", option)
    write_config(finished, small_config())
    assert links() == before and set((finished / "results/recipes").rglob("*.json")) == recipes


def test_a_finished_job_run_by_hand_leaves_nothing_behind(finished):
    recipe = next((finished / "results/recipes/topics").glob("*.json"))
    command = [sys.executable, ROOT / "workflow/scripts/topics.py", recipe]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert done.returncode == 0 and "is already finished" in done.stderr
    assert not (finished / "results/work/topics" / recipe.stem).exists()


DEMO_TABLES = [table for table in read_tables() if table.stage not in WITHOUT_DIALOGUES]


@pytest.mark.parametrize("table", DEMO_TABLES, ids=lambda table: f"{table.stage}-{table.file}")
def test_columns_and_types_are_those_of_real_files(table, finished):
    check_columns(table, finished / "results")


def test_a_model_tuned_on_instructions_takes_its_place_beside_the_model(tmp_path):
    """Only models, instructions and questions: no dialogues."""
    records = [
        {"instruction": f"How hot is bread {n}?", "input": "", "output": f"{200 + n % 7} degrees."}
        for n in range(60)
    ]
    (tmp_path / "mine.json").write_text(json.dumps([*records, {"instruction": 1}]), encoding="utf-8")
    demo = small_config()["models"]["llama"]
    source = {"source": "file", "path": str(tmp_path / "mine.json"), "format": "alpaca"}
    config = {
        **{key: small_config()[key] for key in ("seed", "prompts", "world", "mmlu")},
        "name": "tuned",
        "rounds": 0,
        "models": {"base": demo, "tuned": demo},
        "sft": {
            "models": ["tuned"],
            "instructions": [source],
            "held_out_share": 0.2,
            "method": "full",
            "learning_rate": 1e-3,
            "epochs": 2,
            "batch_size": 8,
        },
    }
    write_config(tmp_path, config)
    refused = snakemake(tmp_path, "all", check=False)  # one of 61 records is more than a hundredth
    assert "1 of 61 records (1.64%) are invalid as alpaca" in refused and "record 61" in refused
    (tmp_path / "mine.json").write_text(json.dumps(records), encoding="utf-8")
    snakemake(tmp_path, "all")
    view = tmp_path / "results/experiments/tuned"
    losses = read_json(view / "sft/tuned/losses.json")
    assert losses["held_out"]["after"] < losses["held_out"]["before"]
    assert (
        losses["counts"]["train"]["conversations"] + losses["counts"]["held_out"]["conversations"] == 60
    )
    summary = read_json(view / "report/summary.json")
    assert [row["model"] for row in summary["mmlu"]] == ["base", "tuned"]
    page = (view / "report/report.html").read_text(encoding="utf-8")
    assert "Before all other stages 1 model learned from instructions" in page
    assert dry_run(tmp_path, config) == set()
    changed = dry_run(tmp_path, config | {"sft": config["sft"] | {"learning_rate": 2e-3}})
    assert "sft" in changed and not changed & {"models", "instructions", "questions"}
