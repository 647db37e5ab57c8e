"""Checkpoints of transformers' Trainer, made whole and checked like all others."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import TrainerCallback

from expertchat.checkpoints import Checkpoints, numbered


class Seal(TrainerCallback):
    """Makes each folder that the Trainer saves a checkpoint of ours.

    The Trainer writes file after file into a folder with its final name, which an interruption leaves
    incomplete.
    """

    def __init__(self, saved: Checkpoints):
        self.saved = saved

    def on_step_end(self, args, state, control, **kwargs) -> None:
        # an entry of the log is a mean since the last one, and the Trainer forgets what it has of one
        control.should_save = self.saved.due and state.global_step % args.logging_steps == 0

    def on_save(self, args, state, control, **kwargs) -> None:
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with self.saved.writing(numbered(state.global_step)) as folder:
            shutil.copytree(written, folder, dirs_exist_ok=True)
        shutil.rmtree(written)
