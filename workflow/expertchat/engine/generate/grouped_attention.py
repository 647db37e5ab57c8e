"""Attention of a few new tokens on a long cache, where several query heads share keys and values.

As soon as a row has more than one new token, transformers copies shared keys and values for each query
head before its fused kernel, the whole cache in each layer. Here the query heads of a group stand side
by side as further tokens instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "expertchat_grouped"
OTHER_TERMS = ("position_bias", "softcap")  # arguments that transformers' own function sees to


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
    """What attention gives [rows, new, heads, dim] for `query` [rows, heads, new, dim].

    `key` and `value` [rows, shared heads, slots, dim]; `attention_mask` [rows, 1, new, slots] is added.
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
def few_new_tokens(model) -> Iterator[None]:
    """Has `model`, where its attention is sdpa, attend in this way meanwhile.

    Every pass in it must bring a mask of four dimensions.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
