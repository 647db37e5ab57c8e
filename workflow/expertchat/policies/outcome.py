"""Whether PPO has a reward to follow, and what the stage publishes if it has none.

Nothing here loads a model.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd

from expertchat.policies.artifact import OUTCOME, STEP_TYPES, STEPS, UNSUPPORTED
from expertchat.records import read_json, write_json
from expertchat.rewards.artifact import METRICS


def reason_against_tuning(reward_model: Path) -> str | None:
    """Why PPO would be of no use with the reward model in this folder; None if it may be of use."""
    return UNSUPPORTED if read_json(reward_model / METRICS)["scale"] == 0 else None


def keep_policy(previous: Path | None, reason: str, out: Path) -> None:
    """Publishes the policy of the round before unchanged, or else the base model.

    `previous` is an artifact of this stage. Writes to `out` the adapter of `previous`, if it has one,
    steps.parquet without rows, and outcome.json with the reason.
    """
    if previous is not None and (previous / "adapter").is_dir():
        shutil.copytree(previous / "adapter", out / "adapter")
    table = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in STEP_TYPES.items()})
    table.to_parquet(out / STEPS)
    write_outcome(out, steps=0, reason=reason)
    print(f"not tuned: {reason}", file=sys.stderr, flush=True)


def write_outcome(out: Path, steps: int, reason: str | None = None) -> None:
    """Writes outcome.json: the number of PPO's steps, and the reason if it did not run."""
    write_json(out / OUTCOME, {"tuned": reason is None, "steps": steps, "reason": reason})
