"""Errors in the configuration files that Snakemake reads end with one sentence, before any job."""

import subprocess
import sys
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.settings.config_files import check_config_file, config_files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (ROOT / "config/config.yaml").read_text(encoding="utf-8")


def snakemake(folder: Path, *arguments: str) -> tuple[int, str]:
    """(exit status, output) of a dry run, or of a run of one job, in `folder`."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def written(folder: Path, text: str, name: str = "my.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize("profile", [(), ("--profile", str(ROOT / "profiles/local"))])
def test_a_missing_file_ends_without_a_traceback(profile, tmp_path):
    status, output = snakemake(tmp_path, *profile, "--dry-run", "--configfile", "none.yaml")
    assert status == 1 and "Traceback" not in output
    assert output.splitlines()[-1] == (
        "snakemake: none.yaml: No such file or directory; --configfile must name YAML files with the "
        "settings of an experiment"
    )


def test_a_target_after_configfile_is_explained(tmp_path):
    name = written(tmp_path, CONFIG)
    status, output = snakemake(tmp_path, "--dry-run", "--configfile", name, "topics")
    assert status == 1 and "Traceback" not in output
    assert "topics: No such file or directory; all words after --configfile are file names" in output


def test_an_option_that_is_given_twice_is_refused(tmp_path):
    """Snakemake would forget the first one in silence."""
    twice = ("--config", "rounds=0", "--config", "name=two")
    status, output = snakemake(tmp_path, "--dry-run", *twice)
    assert status == 1 and "Traceback" not in output
    assert "snakemake: --config is given 2 times" in output


@pytest.mark.parametrize("profile", [(), ("--workflow-profile", "none", "--cores", "1")])
def test_a_duplicate_key_stops_the_run_before_any_job(profile, tmp_path):
    name = written(tmp_path, "name: first\n" + CONFIG)
    line = 1 + CONFIG[: CONFIG.index("\nname:")].count("\n") + 2
    status, output = snakemake(tmp_path, "models", *profile, "--configfile", name)
    assert status == 1 and "Traceback" not in output
    assert f"my.yaml, line {line}: name: this key is already given in line 1" in output
    assert not (tmp_path / "results").exists()


def test_a_duplicate_key_deep_in_a_second_file_stops_the_run(tmp_path):
    first, second = written(tmp_path, CONFIG), written(tmp_path, "ppo: {steps: 1, steps: 2}", "two.yaml")
    status, output = snakemake(tmp_path, "--dry-run", "--configfile", first, second)
    assert status == 1 and "two.yaml, line 1: steps: this key is already given in line 1" in output


def test_valid_files_are_planned(tmp_path):
    """Anchors and merge keys are no duplicates, and JSON files may be indented with tabs."""
    shared = "ppo:\n  lora: &lora {rank: 4}\nrewards:\n  lora: {<<: *lora, rank: 8}\n"
    first, second = written(tmp_path, CONFIG), written(tmp_path, shared, "two.yaml")
    third = written(tmp_path, '{\n\t"rounds": 0\n}', "three.json")
    status, output = snakemake(tmp_path, "all", "--dry-run", "--configfile", first, second, third)
    assert status == 0, output
    assert "make_ratings" in output and "make_policies" not in output


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ("topics --dry-run", []),
        ("--configfile a.yaml b.yaml --cores 2", ["a.yaml", "b.yaml"]),
        ("topics --configfiles=a.yaml -n", ["a.yaml"]),
        ("--config rounds=2 ppo={steps:1} --configfile a.yaml --directory b", ["a.yaml"]),
        ("--configfile a.yaml --config rounds=2 -- topics", ["a.yaml"]),
        ("-- --configfile", []),
        ("--configfile a.yaml --configfile b.yaml", ["b.yaml"]),  # as in Snakemake, the last one counts
    ],
)
def test_the_files_among_the_arguments(arguments, files):
    assert config_files(arguments.split()) == [Path(name) for name in files]


def test_a_missing_json_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        check_config_file(tmp_path / "none.json")
