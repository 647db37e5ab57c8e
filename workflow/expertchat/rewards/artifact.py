"""What stage rewards hands on: file names, and the folders of its adapters."""

from __future__ import annotations

from pathlib import Path

PAIRS = "pairs.parquet"  # preference pairs with their scores
METRICS = "metrics.json"  # accuracy, calibration and scale
TRAINING_LOG = "training.json"  # for each reward model of the ensemble


def adapter_name(number: int) -> str:
    """The folder of the adapter and score head of an ensemble's member, from 0, in peft's layout."""
    return f"adapter-{number + 1}" if number else "adapter"


def adapter_folders(folder: Path) -> list[Path]:
    """The adapters of all members of the reward model in `folder`."""
    count = len(list(folder.glob("adapter-*"))) + 1
    return [folder / adapter_name(number) for number in range(count)]
