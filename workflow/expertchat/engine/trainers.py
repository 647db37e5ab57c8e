"""What the stages share that train by transformers' Trainer: arguments, progress, and checkpoints.

Where several processes train together, each has a Trainer that knows of itself only: all see the same
batches, and each works on its share of a batch (`parallel`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.engine import parallel, sharding

LOGGED = 50  # entries of a log, about


class Seal(TrainerCallback):
    """Makes each folder that the Trainer saves a checkpoint of ours.

    The Trainer writes file after file into a folder with its final name, which an interruption leaves
    incomplete. Of several processes the first makes the checkpoint; if each has a part of the model
    (`sharding`), all write theirs and the first collects them.
    """

    def __init__(self, saved: Checkpoints, sharded: bool):
        self.saved, self.sharded = saved, sharded

    def on_step_end(self, args, state, control, **kwargs) -> None:
        # an entry of the log is a mean since the last one, and the Trainer forgets what it has of one
        logged = state.global_step % args.logging_steps == 0
        if logged and self.sharded:
            control.should_save = parallel.from_first(lambda: self.saved.due)
        else:
            control.should_save = logged and self.saved.due and parallel.rank() == 0

    def on_save(self, args, state, control, **kwargs) -> None:
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folders = parallel.gathered([written], parallel.count()) if self.sharded else [written]
        if parallel.rank() == 0:
            with self.saved.writing(numbered(state.global_step)) as folder:
                for part in reversed(folders):  # of files that all have, the first process's stay
                    shutil.copytree(part, folder, dirs_exist_ok=True)
        if self.sharded:
            parallel.from_first(lambda: None)  # the others wait with what they do next
        shutil.rmtree(written)


class TokenProgress:
    """For a Trainer, as its first base class: counts tokens on a progress bar.

    The bar shows what the Trainer would print.
    """

    state: TrainerState
    accelerator: Any
    model: Any

    def __init__(self, progress, tokens: int, **kwargs):
        """`progress`: a progress bar in tokens, to which the run adds `tokens` in all."""
        super().__init__(**kwargs)
        self.progress, self.tokens, self.tokens_left = progress, tokens, tokens
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def count(self, tokens: int) -> None:
        """Adds tokens to the progress bar, and as many for each other process, but not more than the run
        has left."""
        tokens = min(tokens * parallel.count(), self.tokens_left)
        self.tokens_left -= tokens
        self.progress.update(tokens)

    def together(self, loss: Tensor) -> Tensor:
        """The loss of a pass, and after the last pass of a step also its gradients, summed over the
        processes that train together."""
        if self.accelerator.sync_gradients and not sharding.is_sharded(self.model):
            parallel.sum_gradients(p for p in self.model.parameters() if p.requires_grad)
        return parallel.stacked(loss).sum(0)

    def show_loss(self, logs: dict[str, float]) -> None:
        """Shows the loss of a log entry beside the bar, if it has one."""
        if "loss" in logs:
            self.progress.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)

    def not_finite(self, section: str) -> str:
        """The message on a loss that is not finite, in the stage of a section of the settings."""
        return (
            f"step {self.state.global_step + 1} of {self.state.max_steps}: the loss is NaN or "
            f"infinite: lower {section}.learning_rate or set load.dtype to float32"
        )


class ShardedCheckpoints(Trainer):
    """For a Trainer, as a base class before it: its checkpoints of a model of which each process has a
    part (`sharding`). Those of other models are the Trainer's own."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not sharding.is_sharded(self.model):
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not sharding.is_sharded(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        sharding.save_part(self.model, self.optimizer, folder)
        torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if not sharding.is_sharded(self.model):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        sharding.load_weights(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharding.is_sharded(self.model):
            return super()._load_optimizer_and_scheduler(checkpoint)
        sharding.load_moments(self.model, self.optimizer, Path(checkpoint))
        state = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, state["_last_lr"], strict=True):
            group["lr"] = rate


def common_arguments(model, scratch: Path, steps: int, seed: int) -> dict[str, Any]:
    """Arguments of all Trainers. `scratch`: a folder that is emptied; `steps`: those of the run."""
    shutil.rmtree(scratch, ignore_errors=True)
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(scratch),
        "lr_scheduler_type": "cosine",
        "seed": seed % 2**32,
        "fp16": gpu and model.dtype == torch.float16,  # for the scaling of gradients
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu,
        "save_strategy": "no",  # `Seal` decides
        "logging_steps": max(1, steps // LOGGED),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def run_to_the_end(trainer, saved: Checkpoints) -> None:
    """Trains from the latest checkpoint, or from the beginning if there is none."""
    trainer.add_callback(Seal(saved, sharding.is_sharded(trainer.model)))
    checkpoint = parallel.from_first(saved.latest)
    if checkpoint is not None:
        done = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        trainer.count(trainer.tokens * done.global_step // done.max_steps // parallel.count())
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    if not sharding.is_sharded(trainer.model):
        parallel.require_equal(p for p in trainer.model.parameters() if p.requires_grad)
    trainer.count(trainer.tokens_left)
