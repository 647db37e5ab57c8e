"""Memory of a training pass, planned before it: a pass on the meta device computes nothing and takes no
memory, but PyTorch says which tensors it would keep for the gradient."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv

from expertchat.engine import parallel, sharding
from expertchat.engine.backbone import base_of, forward_parameters
from expertchat.engine.batches import SHARE, free_bytes
from expertchat.engine.memory import layer_names
from expertchat.errors import UserError

GIB = 2**30
PLANNED = "expertchat_planned"  # the name of an attention that runs on the meta device only
GRADIENTS = (
    0.5  # of what a layer keeps: its gradients in the backward pass (benchmarks/training_memory.py)
)
MOMENTS = 12  # bytes per trained weight: its gradient and two moments of Adam, in float32


class _Attention(torch.autograd.Function):
    """Keeps what memory-efficient kernels keep: their inputs and their output, and no probabilities.

    It has no backward pass, as plans need none.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        ctx.save_for_backward(query, key, value, output)
        return output


def _attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, **_) -> tuple:
    """transformers' interface of an attention: [rows, heads, T, width] to [rows, T, heads, width]."""
    groups = getattr(module, "num_key_value_groups", 1)
    output = _Attention.apply(query, repeat_kv(key, groups), repeat_kv(value, groups))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(PLANNED, _attend)


def row_activations(skeleton: nn.Module, tokens: int, again: bool) -> int:
    """Bytes that a training pass takes per row of `tokens` tokens, besides weights and output head.

    `skeleton`: a model on the meta device, with an adapter if one is trained. `again`: whether the
    layers' activations are computed again for the gradient (gradient checkpointing), so that only their
    inputs are kept and one layer's activations are there at a time.
    """
    base = base_of(skeleton)
    layers = len(layer_names(base))
    kept = _kept_bytes(skeleton, tokens)
    if not again:
        return round(kept + GRADIENTS * kept / layers)
    inputs = layers * tokens * base.config.get_text_config().hidden_size * base.dtype.itemsize
    return round(inputs + (1 + GRADIENTS) * kept / layers)


def _kept_bytes(skeleton: nn.Module, tokens: int) -> int:
    """Bytes of the tensors that a pass over one row keeps for the gradient; weights do not count."""
    base = base_of(skeleton)
    size = base.dtype.itemsize
    if any(parameter.dim() == 3 for parameter in base.parameters()):
        skeleton.to(torch.bfloat16)  # the only type in which PyTorch plans products of fused experts
    if base.config._attn_implementation != "eager":  # which keeps all probabilities
        base.set_attn_implementation(PLANNED)
    backbone = getattr(base, base.base_model_prefix)
    weights = {parameter.untyped_storage()._cdata for parameter in skeleton.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, tokens, tokens, dtype=base.dtype, device="meta")
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": ids, "use_cache": False}
    taken = {name: value for name, value in arguments.items() if name in forward_parameters(backbone)}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(**taken)
    kept_bytes = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    return kept_bytes * size // base.dtype.itemsize


def planned_texts(
    model,
    skeleton: nn.Module,
    most: int,
    own: int,
    *,
    shared: int = 0,
    group: int = 1,
    again: bool,
    head: int = 0,
) -> int:
    """The number of texts, `most` or a half, a quarter and so on, that a training pass of `model` has
    memory for now.

    `skeleton`: the same model on the meta device. A text has `own` tokens after `shared` ones, which are
    read once for up to `group` texts. `again`: see `row_activations`. `head`: bytes per token for logits
    and their gradient. Says so if the number is below `most`. Raises UserError if not one text fits.
    """
    try:
        row = row_activations(skeleton, shared + own, again)
    except (RuntimeError, TypeError) as error:  # PyTorch or a layer does not run on the meta device
        reason = str(error).partition("\n")[0]
        print(f"the memory of training is not planned for this architecture: {reason}", file=sys.stderr)
        return most
    token = row / (shared + own) + head
    divided = parallel.count() if sharding.is_sharded(model) else 1
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) // divided
    free = free_bytes(model)
    if model.device.type == "cpu":
        free //= parallel.count()
    free -= MOMENTS * trained
    if token * (shared + own) > free:
        raise UserError(
            f"training on a text of {shared + own} tokens takes {token * (shared + own) / GIB:.1f} GiB "
            f"in addition to the model, its gradients and the optimizer, for which {free / GIB:.1f} GiB "
            "are left: shorten the texts, quantize the model (load.quantization), train fewer layers "
            "(lora.layers), or use a larger GPU"
        )
    sizes = [most]  # by halves, so that a little less free memory does not change how texts are rounded
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    fits = (n for n in sizes if token * (math.ceil(n / group) * shared + n * own) <= SHARE * free)
    texts = min(parallel.gathered([next(fits, 1)], parallel.count()))
    if texts < most:
        print(
            f"{texts} texts in one pass instead of {most}: {free / GIB:.1f} GiB are free",
            file=sys.stderr,
        )
    return texts
