"""The training loop of stage policies: steps, checkpoints, and what is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import progress_bar, rate
from expertchat.engine.training import parallel, save_adapter
from expertchat.policies.artifact import STEP_TYPES, STEPS, VALUE_HEAD
from expertchat.policies.curves import write_curves
from expertchat.policies.trainer import PPOTrainer, TrainerState
from expertchat.records import read_records, write_records

STATE, ROWS = "state.safetensors", "steps.jsonl"  # files of a checkpoint


def save_checkpoint(trainer: PPOTrainer, path: Path) -> None:
    """Writes trained parameters, optimizer and trainer state to one safetensors file."""
    tensors = {}
    for name, parameter in trainer.parameters.items():
        tensors[name] = parameter.detach().contiguous()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}|{key}"] = value.contiguous()
    states = {"state": vars(trainer.state), "scaler": trainer.scaler.state_dict()}
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in states.items()})


def load_checkpoint(trainer: PPOTrainer, path: Path) -> None:
    """Restores what `save_checkpoint` wrote."""
    with safe_open(path, framework="pt", device=str(trainer.backbone.device)) as file:
        trainer.state = TrainerState(**json.loads(file.metadata()["state"]))
        if trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(json.loads(file.metadata()["scaler"]))
        with torch.no_grad():
            for name, parameter in trainer.parameters.items():
                parameter.copy_(file.get_tensor(name))
        for name in sorted(file.keys()):
            if "|" in name:
                parameter, key = name.split("|")
                optimizer_state = trainer.optimizer.state[trainer.parameters[parameter]]
                value = file.get_tensor(name)
                optimizer_state[key] = value.cpu() if key == "step" else value


def train(trainer: PPOTrainer, label: str, checkpoints: Path, out: Path) -> None:
    """Runs PPO to its last step, from the latest checkpoint if there is one.

    Writes to `out` the adapter in peft's layout, value_head.safetensors, steps.parquet (one row per
    step) and TensorBoard logs (`write_curves`). During the run TensorBoard's own log, which also has the
    times, is in `checkpoints`. A resumed run begins it anew with the rows of its checkpoint.

    Progress is counted in passes over replies: in a step each reply is drawn, read by policy, reference
    and reward model, and learned from in each epoch.
    """
    from torch.utils.tensorboard import SummaryWriter

    saved = Checkpoints(checkpoints / "steps")
    rows: list[dict[str, Any]] = []
    settings = trainer.settings
    passes = settings.batch_size * (1 + 3 + settings.epochs)  # of a step
    before = settings.batch_size * 2  # of `measure_reward_statistics`
    total = before + settings.steps * passes
    checkpoint = parallel.from_first(saved.latest)
    if checkpoint is not None:
        load_checkpoint(trainer, checkpoint / STATE)
        rows = read_records(checkpoint / ROWS)
    shutil.rmtree(checkpoints / "tensorboard", ignore_errors=True)
    writer = SummaryWriter(str(checkpoints / "tensorboard"))
    for row in rows:
        _plot(writer, row)
    with writer, progress_bar(total, label, "passes over replies") as progress:
        trainer.passes.on_pass = progress.update
        if checkpoint is not None:
            progress.update(before + trainer.state.step * passes)
        else:
            trainer.measure_reward_statistics()
        while trainer.state.step < settings.steps and not trainer.state.stopped:
            row = trainer.train_step()
            rows.append(row)
            _plot(writer, row)
            speed = rate(row["tokens"], row["seconds"], "tokens")
            at = f"step {trainer.state.step} of {settings.steps}"
            progress.set_postfix_str(f"{at}, score {row['score']:+.2f}, KL {row['kl']:.1f}, {speed}")
            now = trainer.state.step % settings.checkpoint_every == 0 or saved.due
            if now and parallel.rank() == 0:
                with saved.writing(numbered(trainer.state.step)) as folder:
                    write_records(folder / ROWS, rows)
                    save_checkpoint(trainer, folder / STATE)
    parallel.require_equal(trainer.parameters.values())
    save_adapter(trainer.backbone.model, out / "adapter")
    if trainer.has_values:
        value_head = {n: p.detach() for n, p in trainer.backbone.value_head.named_parameters()}
        save_file(value_head, out / VALUE_HEAD)
    steps = pd.DataFrame(rows)[list(STEP_TYPES)]
    steps.to_parquet(out / STEPS)
    write_curves(steps, out / "tensorboard")


def _plot(writer, row: dict[str, Any]) -> None:
    """Adds a row of `steps.parquet` to a TensorBoard log."""
    for name, value in row.items():
        writer.add_scalar(f"ppo/{name}", value, row["step"])
