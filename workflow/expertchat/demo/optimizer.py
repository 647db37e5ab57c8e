"""The demo's optimizer: Muon on the matrices inside the layers, AdamW on everything else.

AdamW alone learns hardly any fact in the demo's time.
"""

from __future__ import annotations

import torch
from torch import nn


def matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Two-dimensional views of the matrices inside the layers, and the other parameters.

    Stacked experts (experts, out, in) are taken apart. The views share memory with their parameters,
    values and gradients, so the parameters must keep their gradient tensors: zero them in place.
    """
    views, others = [], []
    for name, parameter in model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
        inside = ".layers." in name and parameter.ndim >= 2 and ".gate.weight" not in name
        if not inside:
            others.append(parameter)
            continue
        pairs = [(parameter.data, parameter.grad)]
        if parameter.ndim == 3:
            pairs = list(zip(parameter.data, parameter.grad, strict=True))
        for value, gradient in pairs:
            view = nn.Parameter(value)
            view.grad = gradient
            views.append(view)
    return views, others


def optimizers(
    model: nn.Module, *, matrix_rate: float, other_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW for `model`, at these peak learning rates."""
    views, others = matrices(model)
    muon = torch.optim.Muon(views, lr=matrix_rate, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(others, lr=other_rate, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8)
    return [muon, adamw]


def schedule(step: int, steps: int, warmup: int, decay: float) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to 0 over the last `decay`."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * fall
