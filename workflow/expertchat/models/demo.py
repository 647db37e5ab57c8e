"""Demo models, which are trained from scratch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat.models.targets import TargetModules, check_targets
from expertchat.records import write_json


def make_demo_model(
    settings: Mapping[str, Any], targets: TargetModules, checkpoints: Path, out: Path
) -> None:
    """Trains a demo model and writes its metrics to metrics.json. Resumes from `checkpoints`."""
    from transformers import AutoConfig

    from expertchat.demo.build import build_model

    architecture = settings["architecture"]
    check_targets(targets, AutoConfig.for_model(architecture), f"the demo's {architecture}")
    metrics = build_model(
        out / "model",
        architecture=architecture,
        knows=settings["knows"],
        seed=settings["seed"],
        steps=settings["steps"],
        prompts=settings["prompts"],
        world_seed=settings["world"]["seed"],
        checkpoints=checkpoints,
    )
    took, speed = metrics.pop("seconds"), metrics.pop("tokens_per_second")  # not the same in every run
    print(f"{took:.0f} s, {speed:,.0f} tokens/s", file=sys.stderr)
    write_json(out / "metrics.json", metrics)
