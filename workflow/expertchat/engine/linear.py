"""Linear layers by oneDNN, on CPUs whose widest vectors the default library leaves unused.

In float32 PyTorch multiplies matrices with Intel's MKL, which on CPUs of other makers does not use
AVX-512. oneDNN, which PyTorch uses for bfloat16, does. `benchmarks/linear.py` measures both. The choice
depends only on the CPU, never on a trial, so that equal runs give equal results.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL = 2**21  # multiplications: for fewer, MKL's smaller overhead counts more
NARROW = 8  # rows from which on it pays to exchange input and weight
WIDE = 8  # output features per row up to which it does not


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies matrices of float32 faster than MKL on this CPU."""
    cpu = torch.cpu.get_capabilities()
    return (
        torch.backends.mkldnn.is_available()
        and cpu.get("architecture") == "x86_64"
        and cpu["avx512_f"]
        and "AMD" in cpu["cpu_name"]
    )


def use_onednn(model: nn.Module) -> None:
    """Makes oneDNN compute the model's linear layers where it is faster.

    Only layers of float32 weights on the CPU are changed; parameters and their names stay as they are.
    """
    if not onednn_is_faster():
        return
    for module in model.modules():
        if (
            type(module) is nn.Linear
            and is_float32_on_cpu(module.weight)
            and module.weight.is_contiguous()
        ):
            module.__class__ = OneDNNLinear


def is_float32_on_cpu(tensor: Tensor) -> bool:
    """Whether products of `tensor` are MKL's by default."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


class OneDNNLinear(nn.Linear):
    """`torch.nn.Linear` in float32, computed by oneDNN: the same up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.shape[:-1].numel()
        small = rows * self.weight.numel() < SMALL
        if small or not is_float32_on_cpu(input) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        flat = input.reshape(rows, -1).contiguous()
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            flat = Product.apply(flat, self.weight)
        else:
            flat = product(flat, self.weight)
        if self.bias is not None:
            flat = flat + self.bias
        return flat.view(*input.shape[:-1], -1)


def product(input: Tensor, weight: Tensor) -> Tensor:
    """`input` [rows, in] times the transposed `weight` [out, in], by oneDNN, which reorders `weight`.

    While tokens are drawn, rows are few and the weight is large. Then the two change places, so that the
    input is reordered instead.
    """
    rows, features = len(input), len(weight)
    if rows >= NARROW and features >= WIDE * rows:
        return onednn(weight, input).t().contiguous()
    return onednn(input, weight)


def onednn(input: Tensor, weight: Tensor) -> Tensor:
    """The operator of PyTorch's compiler for linear layers, without a bias and with nothing after it.

    Both matrices, or their transposes, must be contiguous: for other strides oneDNN has only slow code.
    """
    return torch.ops.mkldnn._linear_pointwise(input, weight, None, "none", [], "")


class Product(torch.autograd.Function):
    """`product` with its gradients."""

    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight, input if ctx.needs_input_grad[1] else None)
        return product(input, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, input = ctx.saved_tensors
        gradient = gradient.contiguous()
        wanted_input, wanted_weight = ctx.needs_input_grad
        return (
            onednn(gradient, weight.t()) if wanted_input else None,
            onednn(gradient.t(), input.t()) if wanted_weight else None,
        )
