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


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16 matrices, or for their emulation
    by AVX-512. Where it has neither, such a product takes about 20 times as long as in float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Float32Muon(torch.optim.Muon):
    """torch's Muon with Nesterov momentum (Jordan et al. 2024), orthogonalizing in float32.

    torch does it in bfloat16 on every processor.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of all parameters that have gradients."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                gradient = parameter.grad
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                update = orthogonalized(gradient.lerp(average, momentum), group)
                rows, columns = update.shape
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-rate * max(1, rows / columns) ** 0.5)


def orthogonalized(matrix: torch.Tensor, group: dict) -> torch.Tensor:
    """`matrix` with its singular values near 1, by Newton-Schulz iterations with a parameter group's
    coefficients, as torch.optim.Muon does it."""
    a, b, c = group["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def optimizers(
    model: nn.Module, *, matrix_rate: float, other_rate: float
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW for `model`, at these peak learning rates."""
    views, others = matrices(model)
    kind = torch.optim.Muon if has_bfloat16() else Float32Muon
    muon = kind(views, lr=matrix_rate, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(others, lr=other_rate, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8)
    return [muon, adamw]


def schedule(step: int, steps: int, warmup: int, decay: float) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to 0 over the last `decay`."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * fall
