"""The command `expertchat`: what it prints about a plan and a store, and what it removes."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from expertchat.cli import COMMANDS, main
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.locks import Owner, locked
from expertchat.pipeline.logs import INTERRUPTED, last_error, log_path
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import (
    artifact_path,
    manifest_path,
    recipe_path,
    work_path,
    write_manifest,
    write_recipe,
)


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def plan(root, default_config, store):
    plan = make_plan(read_experiment(default_config, root), root)
    plan.store = store
    return plan


@pytest.fixture
def expertchat(monkeypatch, capsys, store):
    """Runs a command on the store: (exit code or error message, lines printed)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["expertchat", *map(str, arguments), "--store", str(store)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().out.splitlines()

    return run


def finish(store, recipe):
    folder = artifact_path(store, recipe.reference)
    folder.mkdir(parents=True)
    (folder / "data.txt").write_text("data")
    write_manifest(folder, recipe, {})


def reference(plan, path):
    """The artifact under a readable path."""
    return plan.views[path]


def write_log(plan, path, text):
    log = log_path(plan.store, reference(plan, path))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


def checkpoint(plan, path, name="steps/00000001/checksums.json"):
    file = work_path(plan.store, reference(plan, path)) / "checkpoints" / name
    file.parent.mkdir(parents=True)
    file.touch()


# plan and status


def test_plan_prints_every_artifact_by_round_and_what_is_done(plan, expertchat):
    finish(plan.store, plan.recipes[reference(plan, "topics")])
    code, lines = expertchat("plan", "--list")
    assert code == 0
    headings = [line for line in lines if not line.startswith(" ")]
    assert headings[:4] == ["base models", "round 1", "round 2", "report"]
    assert headings[4] == f"{len(plan.recipes)} artifacts: 1 done, {len(plan.recipes) - 1} to be made"
    done = reference(plan, "topics")
    assert next(line for line in lines if "done" in line).split() == ["done", done, "topics"]
    unfinished = [line.split() for line in lines if line.startswith("        ")]
    assert {words[0] for words in unfinished} == set(plan.recipes) - {done}
    label = plan.recipes[reference(plan, "round-1/policies/llama")].label
    assert label.split() in [words[1:] for words in unfinished]


def test_plan_tells_what_the_jobs_to_come_need(plan, expertchat):
    code, lines = expertchat("plan", "--gpus", "2x8")
    assert code == 0
    (begin,) = (i for i, line in enumerate(lines) if line.startswith("What the jobs to come need"))
    assert lines[begin].startswith("What the jobs to come need on 2 GPUs of 8 GiB")
    stages = {line.split()[1] for line in lines[begin + 3 :] if line[:4].strip().isdigit()}
    assert stages >= {"topics", "dialogues", "ratings", "rewards", "policies", "answers"}
    assert (plan.folder() / "plan.json").is_file()


def test_status_tells_the_five_states_and_what_a_rerun_does(plan, expertchat):
    finish(plan.store, plan.recipes[reference(plan, "topics")])
    checkpoint(plan, "models/llama")
    write_log(plan, "models/llama", f"models of llama  20% | 2/10 steps\nmodels: {INTERRUPTED}\n")
    checkpoint(plan, "round-1/policies/mixtral")
    write_log(plan, "round-1/policies/mixtral", "policies: the GPU is too small\n")
    work = work_path(plan.store, reference(plan, "models/mixtral"))
    work.mkdir(parents=True)
    owner = Owner("node3", 7, "1", "", "t")
    (work / "lock").write_text(f"{owner}\n{json.dumps(asdict(owner))}\n")
    code, lines = expertchat("status")
    _, every = expertchat("status", "--all")
    (work / "lock").unlink()
    assert code == 0
    waiting = len(plan.recipes) - 4
    assert lines[1:3] == [
        "  models       1 running, 1 resumable",
        "               running: models of mixtral: process 7 on node3",
    ]
    assert "  topics       1 done" in lines
    log = log_path(plan.store, reference(plan, "round-1/policies/mixtral"))
    assert (
        f"               failed: policies of mixtral in round 1: the GPU is too small ({log})" in lines
    )
    end = f"{len(plan.recipes)} artifacts: 1 done, 1 running, 1 resumable, 1 failed, {waiting} waiting"
    assert lines[-3] == end
    assert lines[-2].startswith(f"A rerun would run {waiting + 2} jobs (models 1, questions 1, dialog")
    assert lines[-1] == "Of these, 2 jobs (models 1, policies 1) would resume from checkpoints."
    assert every[-3:] == lines[-3:] and len(every) == 4 + len(plan.recipes) + 3
    assert not any("running" in line for line in expertchat("status")[1]), "the lock is free again"


def test_status_of_a_finished_experiment_is_short(plan, expertchat):
    for recipe in plan.recipes.values():
        finish(plan.store, recipe)
    code, lines = expertchat("status")
    count = len(plan.recipes)
    assert code == 0
    assert lines[-2:] == [f"{count} artifacts: {count} done", "A rerun would run no jobs."]


def test_an_open_tensorboard_log_is_no_checkpoint(plan, expertchat):
    checkpoint(plan, "round-1/policies/llama", "tensorboard/events")
    assert "  policies     2 waiting" in expertchat("status")[1]


def test_many_failures_of_a_stage_are_summed_up(root, default_config, expertchat, tmp_path, store):
    default_config["dialogues"]["shards"] = 6
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(default_config))
    plan = make_plan(read_experiment(default_config, root), root)
    plan.store = store
    for shard in range(6):
        write_log(plan, f"round-1/dialogues/shard-{shard:02d}", "dialogues: no space left\n")
    _, lines = expertchat("status", "--configfile", tmp_path / "shards.yaml")
    assert sum("no space left" in line for line in lines) == 3
    assert "               and 3 more: see expertchat status --all" in lines


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", None),
        ("topics  50% | 1/2 topics\n", None),
        ("topics: no topic\n  of law\n", "no topic"),
        (f"topics  50% | 1/2 topics\ntopics: {INTERRUPTED}\n", None),
        (
            "topics  50% | 1/2\nTraceback (most recent call last):\n  File x\nOSError: full\ndisk\n",
            "OSError: full",
        ),
        (
            "Traceback (most recent call last):\nA: a\n\nDuring handling of the above exception, "
            "another exception occurred:\n\nTraceback (most recent call last):\n  File x\nB: b\n",
            "B: b",
        ),
        ("Traceback (most recent call last):\n  x\nA: a\ntopics 100% | 2/2 topics\n", None),
    ],
)
def test_the_error_at_the_end_of_a_log_is_found(store, text, error):
    log = log_path(store, "topics/0")
    log.parent.mkdir(parents=True)
    log.write_text(text)
    assert last_error(store, "topics/0") == error


def test_status_does_not_import_torch(root, tmp_path):
    code = (
        "import sys\nfrom expertchat.cli import main\nsys.argv = ['expertchat', 'status']\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'transformers', 'pandas', 'numpy', 'snakemake'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert not list(tmp_path.iterdir()), "status writes nothing"


# settings as in snakemake


@pytest.mark.parametrize(
    "overrides",
    [
        ["rounds=2"],
        ["ppo={learning_rate: 1e-3, lora: {rank: 4}}", "ppo={'steps': 10}"],
        ["name=a=b", "seed=1.5", "world=", "control='shuffled'", "pairs=[[llama, mixtral]]"],
        ["aa=True", "bb=true", "cc=null", "dd={", "ee=1_0", "ff={}", "gg=' 3 '"],
    ],
)
def test_overrides_are_parsed_and_merged_as_by_snakemake(root, overrides, tmp_path):
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile
    from snakemake.utils import update_config

    second = tmp_path / "second.yaml"
    second.write_text("ppo: {steps: 3, lora: {alpha: 1}}\nworld: 5\nmmlu: {questions: null}\n")
    files = [root / "config/config.yaml", second]
    expected = {}
    for path in files:
        update_config(expected, load_configfile(path))
    update_config(expected, parse_config(overrides))
    assert read_config(files, overrides) == expected


def test_config_and_configfile_choose_the_plan(expertchat, tmp_path, root, default_config):
    more = tmp_path / "more.yaml"
    more.write_text("rounds: 3\nname: other\n")
    default = root / "config/config.yaml"
    arguments = ["--configfile", default, more, "--config", "rounds=2", "mmlu="]
    _, lines = expertchat("plan", "--list", *arguments)
    plan = make_plan(read_experiment(default_config | {"rounds": 2, "mmlu": None}, root), root)
    shown = {line.split()[0] for line in lines if line.startswith("  ")}
    ids = {r for r, recipe in plan.recipes.items() if recipe.stage not in ("report", "oracle")}
    assert ids <= shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--configfile", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["--config", "rounds"], "--config 'rounds': write KEY=VALUE, for example rounds=2"),
        (["--config", "rounds=many"], "rounds: 'many'; must be"),
        (["--config", "ppo.lora.rank=4"], "write 'ppo={lora: {rank: 4}}'"),
        (
            ["--config", "rounds=2", "--config", "seed=1"],
            "--config is given 2 times, and only the last one would count",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "status", "show"])
def test_wrong_settings_end_in_one_sentence(expertchat, command, arguments, words):
    message, lines = expertchat(command, *arguments)
    assert message.startswith("expertchat: ") and words in message and not lines


def test_show_without_a_report_says_how_to_make_it(plan, expertchat):
    message, _ = expertchat("show")
    assert "nothing of this experiment has run yet" in message and "snakemake --profile" in message
    finish(plan.store, plan.recipes[reference(plan, "topics")])
    message, _ = expertchat("show")
    assert f"the report is not finished (1 of {len(plan.recipes)} artifacts are done)" in message
    assert "earlier settings" not in message
    page = plan.folder() / "report/report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    message, _ = expertchat("show")
    assert f"{page} is of earlier settings or code" in message


# verify and prune


def test_verify_reports_and_removes_damaged_artifacts(plan, expertchat):
    good, changed, cut = (
        plan.recipes[reference(plan, path)] for path in ("topics", "questions", "models/llama")
    )
    for recipe in (good, changed, cut):
        finish(plan.store, recipe)
    (artifact_path(plan.store, changed.reference) / "data.txt").write_text("atad")
    manifest_path(plan.store, cut.reference).write_text("{")
    code, lines = expertchat("verify")
    assert code == 1 and lines[-1] == "3 artifacts, 2 damaged"
    assert any(line.startswith(f"{changed.reference}: ") and "checksum" in line for line in lines)
    assert any(line.startswith(f"{cut.reference}: ") and "not JSON" in line for line in lines)
    assert expertchat("verify", "--remove")[0] == 0
    assert expertchat("verify") == (0, ["1 artifact, 0 damaged"])
    assert artifact_path(plan.store, good.reference).exists()


def test_prune_removes_what_no_experiment_uses(plan, expertchat):
    used = plan.recipes[reference(plan, "topics")]
    unused = Recipe("topics", {"seed": 1}, "c0de")
    unmade = Recipe("models", {"seed": 1}, "c0de")
    plan.write_recipes()
    plan.write_view()
    for recipe in (unused, unmade):
        write_recipe(plan.store, recipe)
    for recipe in (used, unused):
        finish(plan.store, recipe)
    recipes = [str(recipe_path(plan.store, recipe.reference)) for recipe in (unmade, unused)]
    resumed = plan.recipes[reference(plan, "questions")]
    left, waiting, held = (work_path(plan.store, r.reference) for r in (unmade, resumed, unused))
    for folder in (left, waiting, held):
        folder.mkdir(parents=True)
    listed = [unused.reference, *recipes, str(left)]
    ending = "would be removed: add --yes to remove them"
    with locked(held, unused.reference):
        counts = "1 artifact, 2 recipe files and 1 work folder"
        assert expertchat("prune") == (0, [*listed, f"{counts} {ending}"])
    assert artifact_path(plan.store, unused.reference).exists() and Path(recipes[0]).exists()
    code, lines = expertchat("prune", "--yes")
    assert (code, lines[-1]) == (0, "1 artifact, 2 recipe files and 2 work folders removed")
    assert waiting.exists() and not left.exists() and not held.exists()
    assert not artifact_path(plan.store, unused.reference).exists()
    assert not any(Path(path).exists() for path in recipes)
    assert artifact_path(plan.store, used.reference).exists()
    assert all(recipe_path(plan.store, r).exists() for r in plan.recipes)
    assert expertchat("prune")[1] == [f"0 artifacts, 0 recipe files and 0 work folders {ending}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["expertchat", command, "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert f"  expertchat {command}" in text.split("examples:")[1]


def test_an_unreadable_override_is_a_user_error():
    with pytest.raises(UserError, match="KEY=VALUE"):
        read_config([], ["1a=2"])
