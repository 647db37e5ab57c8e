"""Which model fits a budget: the rule, on figures that were measured.

A candidate is a model in one variant. It fits if its peak memory and its seconds per sample are known
and within the budget. The biggest candidate has the most parameters, the best one the highest quality,
which belongs to the model and not to its variant. Among variants of equal rank the one with more bytes
of weights is chosen, as quantization costs quality, and then the faster one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expertchat.settings.speeds import Budget

GB = 10**9
HOUR = 3600


@dataclass(frozen=True)
class Candidate:
    """What is known of a model in one variant; None: unknown. `reason`: why it was not measured."""

    model: str
    variant: str
    parameters: int | None = None
    weights_bytes: int | None = None
    memory_bytes: int | None = None  # at the peak of a batch of samples
    seconds_per_sample: float | None = None
    quality: float | None = None
    reason: str = ""


def misfit(candidate: Candidate, budget: Budget) -> str:
    """Why the candidate does not fit, as a clause; empty if it fits."""
    if candidate.seconds_per_sample is None:
        return candidate.reason or "not measured"
    faults = []
    if candidate.memory_bytes is None:
        faults.append("its memory is not known")
    elif candidate.memory_bytes > budget.gpu_memory_gb * GB:
        faults.append(f"{candidate.memory_bytes / GB:.1f} GB")
    if candidate.seconds_per_sample > budget.seconds_per_sample:
        faults.append(f"{candidate.seconds_per_sample:.3g} s a sample")
    return " and ".join(faults)


def biggest(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The candidate with the most parameters of those that fit; None if none fits."""
    fitting = [c for c in candidates if c.parameters is not None and not misfit(c, budget)]
    return max(fitting, key=lambda c: (c.parameters, *_precise(c)), default=None)


def best(candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """The candidate with the highest quality of those that fit; None if none fits or has a quality."""
    fitting = [c for c in candidates if c.quality is not None and not misfit(c, budget)]
    return max(fitting, key=lambda c: (c.quality, *_precise(c)), default=None)


def _precise(candidate: Candidate) -> tuple[float, float]:
    return candidate.weights_bytes or 0, -(candidate.seconds_per_sample or 0)


def hours(candidate: Candidate, budget: Budget) -> float | None:
    """Hours for all samples of the budget; None if the candidate was not measured."""
    seconds = candidate.seconds_per_sample
    return None if seconds is None else budget.samples * seconds / HOUR
