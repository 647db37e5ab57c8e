"""Forward passes of a transformers model: its arguments, its backbone and its output head.

Generation and scoring both run the backbone alone if they can, and apply the head only where
they need logits: a vocabulary's logits for every token would take most of the memory.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def base_of(model):
    """The model without its peft wrapper, or the model itself if it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_parameters(base) -> frozenset[str]:
    """The names of the forward method's parameters: for instance, not all models take position ids."""
    return _parameters(type(base).forward)


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def forward_arguments(ids: Tensor, mask: Tensor | None, positions: Tensor, cache) -> dict[str, Any]:
    """Arguments of a forward pass with explicit positions, on a cache if there is one.

    `ids` and `positions` [rows, new]; the shape of `mask` is that of the attention in use.
    """
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": cache is not None,
    }


def backbone_states(base, arguments: dict[str, Any]) -> tuple[Tensor, Any] | None:
    """Runs the backbone alone: (last hidden states [rows, new, hidden], the head for `project`).

    None, without running anything, if logits are more than the head's projection of the states. The
    caller then has to run the complete model.
    """
    if not has_plain_head(base):
        return None
    backbone = getattr(base, base.base_model_prefix)
    return backbone(**arguments).last_hidden_state, base.get_output_embeddings()


def project(head, states: Tensor) -> Tensor:
    """Logits [n, V] of hidden states [n, hidden].

    On CPUs the weights are the product's left side: for few states MKL is much faster that way.
    """
    if type(head) is not nn.Linear or states.device.type != "cpu":
        return head(states)
    logits = torch.mm(head.weight, states.T).T.contiguous()
    return logits if head.bias is None else logits + head.bias


def has_plain_head(base) -> bool:
    """Whether logits are only the output embedding's projection of the last hidden states.

    Tested once per model, on two tokens.
    """
    plain = getattr(base, "_expertchat_plain_head", None)
    if plain is None:
        backbone, head = getattr(base, base.base_model_prefix, None), base.get_output_embeddings()
        plain = False
        if backbone is not None and backbone is not base and head is not None:
            ids = torch.tensor([[0, 1]], device=base.device)
            logits = base(input_ids=ids, use_cache=False).logits
            projected = head(backbone(input_ids=ids, use_cache=False).last_hidden_state)
            plain = bool(torch.allclose(logits.float(), projected.float().to(logits.device), atol=1e-4))
        base._expertchat_plain_head = plain
    return plain
