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
from transformers import PrinterCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.engine import parallel

LOGGED = 50  # entries of a log, about


class Seal(TrainerCallback):
    """Makes each folder that the Trainer saves a checkpoint of ours.

    The Trainer writes file after file into a folder with its final name, which an interruption leaves
    incomplete.
    """

    def __init__(self, saved: Checkpoints):
        self.saved = saved

    def on_step_end(self, args, state, control, **kwargs) -> None:
        # an entry of the log is a mean since the last one, and the Trainer forgets what it has of one
        logged = state.global_step % args.logging_steps == 0
        control.should_save = logged and self.saved.due and parallel.rank() == 0

    def on_save(self, args, state, control, **kwargs) -> None:
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with self.saved.writing(numbered(state.global_step)) as folder:
            shutil.copytree(written, folder, dirs_exist_ok=True)
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
        if self.accelerator.sync_gradients:
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
    trainer.add_callback(Seal(saved))
    checkpoint = parallel.from_first(saved.latest)
    if checkpoint is not None:
        done = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        trainer.count(trainer.tokens * done.global_step // done.max_steps // parallel.count())
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    parallel.require_equal(p for p in trainer.model.parameters() if p.requires_grad)
    trainer.count(trainer.tokens_left)
