"""Time of a job: its operations and the weights that it reads, over what a device does a second.

The rates are those of a middling device until jobs of the store have run on the same kind of machine:
then the time of a stage is corrected by how much longer than planned its finished jobs took.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from expertchat.planning.models import PlannedModel
from expertchat.planning.work import Work

# per device and second, sustained: floating-point operations, and bytes of weights that are read
OPERATIONS = {"cpu": 1e11, "cuda": 3e13}
BANDWIDTH = {"cpu": 1e10, "cuda": 4e11}
FORWARD, TRAINING = 2, 6  # operations per weight and token: a forward pass, and all of a training step
START = {"cpu": 10.0, "cuda": 60.0}  # seconds until a job computes
LOAD = 5e8  # bytes of weights that are loaded a second


def planned_seconds(model: PlannedModel, work: Work, rows: int, devices: int) -> float:
    """Seconds that a job takes for one model, at the assumed rates, without its start.

    `rows`: drawn at a time. `devices`: that work on it together.
    """
    kind = "cuda" if model.on_gpu else "cpu"
    operations, weights = OPERATIONS[kind], sum(model.blocks.values())
    each = model.active_parameters
    read = FORWARD * each * work.read / operations
    trained = TRAINING * each * work.trained / operations
    a_step = max(weights / BANDWIDTH[kind], rows * FORWARD * each / operations)
    drawn = work.drawn / max(1, rows) * a_step
    return (read + trained + drawn) / devices + weights / LOAD


Corrections = Mapping[str, float]  # by stage: how much longer its finished jobs took than planned


def corrections(finished: Iterable[tuple[str, float, float]]) -> Corrections:
    """The corrections from finished jobs: (stage, planned seconds, seconds that it took) of each."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for stage, planned, took in finished:
        if planned > 0 and took > 0:
            ratios[stage].append(took / planned)
    return {stage: statistics.median(found) for stage, found in ratios.items()}


def machine_kind(manifest: Mapping[str, Any]) -> str:
    """The kind of machine that made an artifact: the name of its first GPU, or its number of CPUs."""
    machine = manifest["machine"]
    return machine["gpus"][0] if machine["gpus"] else f"{machine['cpus']} CPUs"
