"""Attention of a few new tokens to a long cache, for models with grouped query heads.

If a row has more than one new token, transformers repeats the shared keys and values for each query
head before it calls the fused kernel, which copies the complete cache in each layer. Here the query
heads of a group are treated as additional tokens instead, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "expertchat_grouped"
OTHER_TERMS = ("position_bias", "softcap")  # arguments that only transformers' own function handles


def grouped_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention output [rows, new, heads, dim] for `query` [rows, heads, new, dim].

    `key` and `value` [rows, shared heads, slots, dim]; `attention_mask` [rows, 1, new, slots] is added
    to the scores.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    if groups == 1 or any(kwargs.get(name) is not None for name in OTHER_TERMS):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    rows, heads, new, dim = query.shape
    output = F.scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups * new, dim),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, groups, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, grouped_attention)


@contextmanager
def use_grouped_attention(model) -> Iterator[None]:
    """Inside this context, `model` uses `grouped_attention` if its attention is sdpa.

    Every forward pass inside it must be given a mask of four dimensions.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
