"""Numbers that are not finite end a job: what is made of them would look like a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expertchat.errors import UserError

HELP = "its weights or its adapter are damaged, or load.dtype is too narrow for it (use float32)"


def require_finite_weights(named, folder: Path | str) -> None:
    """Raises UserError if a weight among `named`, pairs of (name, tensor), is NaN or infinite."""
    for name, tensor in named:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{folder}: {name} has values that are NaN or infinite")


def require_finite_logits(logits: Tensor, folder: Path | str) -> None:
    """Raises UserError if a row of `logits` [rows, V] has a NaN, or no largest value that is finite."""
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise UserError(f"{folder}: the model gives logits that are NaN or infinite: {HELP}")


def require_numbers(logprobs: np.ndarray, folder: Path | str) -> None:
    """Raises UserError if a log-probability is NaN. Minus infinity is a probability of 0."""
    if np.isnan(logprobs).any():
        raise UserError(f"{folder}: the model gives probabilities that are NaN: {HELP}")
