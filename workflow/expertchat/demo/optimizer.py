"""The demo's optimizers: Muon for the matrices inside the layers, AdamW for all other parameters.

With AdamW alone a model learns hardly any facts in the time that the demo has.
"""

from __future__ import annotations

import torch
from torch import nn


def matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns (two-dimensional views of the matrices inside the layers, all other parameters).

    Stacked experts (experts, out, in) become one view per expert. A view shares the memory of the values
    and the gradients of its parameter, so gradients must be set to zero in place, not replaced.
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


def make_optimizers(
    model: nn.Module, *, matrix_rate: float, other_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW for `model`, with these peak learning rates."""
    views, others = matrices(model)
    muon = torch.optim.Muon(views, lr=matrix_rate, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(others, lr=other_rate, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8)
    return [muon, adamw]


def schedule(step: int, steps: int, warmup: int, decay: float) -> float:
    """Factor of the learning rate: linear warm-up over `warmup` steps, constant, then linear to 0 over
    the last share `decay` of the steps."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * fall
