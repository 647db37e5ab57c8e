"""The real workflow on the demo with small settings, run as a user would run it."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import yaml
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import read_manifest, write_manifest
from expertchat.records import read_json, read_records, write_json
from expertchat.tables import Table
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

SMALL = {
    "topics": {
        "subjects": ["carpentry", "baking", "pottery"],
        "held_out_subjects": 1,
        "per_subject": 2,
        "tries_per_topic": 40,
        "max_similarity": 1.0,
    },
    "dialogues": {
        "turns": 3,
        "seeds_per_topic": 2,
        "candidate_turns": [0, 1],
        "candidates": 3,
        "decoding": {"max_new_tokens": 24},
    },
    "ratings": {"min_valid_mass": 0.0},
    "rewards": {"min_margin": 0.0, "batch_size": 4},
    "ppo": {
        "steps": 6,
        "batch_size": 4,
        "minibatch_size": 4,
        "checkpoint_every": 1,
        "lora": {"rank": 2},
    },
    "replies": {"per_context": 1},
    "mmlu": {"limit": 2, "shots": 1},
}


def merged(base: dict, update: dict) -> dict:
    """`base` with `update` laid over it, section by section."""
    result = dict(base)
    for key, value in update.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def small_config(**changes) -> dict:
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    config = merged(config, SMALL)
    for model in config["models"].values():
        model["steps"] = 40
    return merged(config, changes)


def snakemake(folder: Path, *arguments: str, root: Path = ROOT, check=True, **environment):
    """Runs the workflow in `folder` on its config.yaml, as a user would."""
    command = [str(BIN / "snakemake"), *arguments, "--snakefile", str(root / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    if not {"--profile", "--dry-run"} <= set(arguments):
        command += ["--cores", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, **environment}
    )
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output[-6000:]
    return output


def write_config(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def planned_rules(output: str) -> set[str]:
    """Stages that a dry run would run."""
    found = {line.split()[0] for line in output.splitlines() if line.startswith("make_")}
    return {name.removeprefix("make_") for name in found}


def dry_run(folder: Path, config: dict, **kwargs) -> set[str]:
    write_config(folder, config)
    return planned_rules(snakemake(folder, "all", "--dry-run", **kwargs))


def support(folder: Path) -> None:
    """Makes the reward model in `folder` one that PPO follows, as if its ratings supported it."""
    metrics, weights = folder / "metrics.json", folder / "adapter/adapter_model.safetensors"
    write_json(metrics, read_json(metrics) | {"scale": 1.0})
    tensors = load_file(weights)
    for name in tensors:
        if name.endswith("score.weight"):
            tensors[name] = torch.linspace(-1, 1, tensors[name].numel()).reshape(tensors[name].shape)
    save_file(tensors, weights, metadata={"format": "pt"})
    manifest = read_manifest(folder)
    write_manifest(folder, Recipe.from_dict(manifest["recipe"]), manifest)


TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "mapping": dict,
}


def rows_of(path) -> list[dict]:
    """The rows of a table as plain Python values."""
    if path.suffix == ".jsonl":
        return read_records(path)
    frame = pd.read_parquet(path)
    names = [name for name in frame if frame[name].dtype == "category"]
    frame = frame.astype({name: str for name in names}).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def check_columns(table: Table, store: Path) -> None:
    """Fails unless all files of a table in the store have the described columns and types."""
    paths = sorted((store / table.stage).glob(f"*/{table.file}"))
    assert paths
    described = {column.name: column for column in table.columns}
    needed = {column.name for column in table.columns if not column.optional}
    for row in (row for path in paths for row in rows_of(path)):
        assert needed <= set(row) <= set(described), (table.file, set(row) ^ needed)
        for name, value in row.items():
            type_name, _, null = described[name].type.partition(" or ")
            allowed = TYPES[type_name]
            right = isinstance(value, allowed) and (allowed is not int or not isinstance(value, bool))
            assert right or (value is None and null == "null"), (table.file, name, value)
