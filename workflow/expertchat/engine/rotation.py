"""Rotary position embeddings that change with the length of the text.

Most rope types of transformers 5.23 (`modeling_rope_utils`) depend on the configuration alone: default,
linear, proportional, yarn and llama3. Two depend on the number of tokens:

- longrope (LongRoPE, Ding et al. 2024; Phi-3-128k): texts of more than
  `original_max_position_embeddings` tokens are rotated by the long factors from their first token on,
  other texts by the short factors. transformers uses the long factors for all rows of a batch if one
  row is long. Here each pass has texts of one class only, and the factors are set explicitly.
- dynamic (NTK): the frequencies change with each token after `max_position_embeddings`. The engine
  reads no longer texts (`loading.context_tokens`), and up to there the frequencies are constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FIXED = "fixed"  # a rope type that transformers does not update
SHORT_ONLY = {"phimoe"}  # transformers 5.23 rotates their long texts by the short factors


def long_rope_limit(config) -> int | None:
    """The number of tokens after which LongRoPE uses its long factors; None without LongRoPE."""
    rope: dict[str, Any] = getattr(config.get_text_config(), "rope_parameters", None) or {}
    by_layer = [value for value in rope.values() if isinstance(value, dict)]
    limits = [
        part["original_max_position_embeddings"]
        for part in (rope, *by_layer)
        if part.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)


def is_long(config, tokens: int) -> bool:
    """Whether a text of `tokens` tokens is rotated by LongRoPE's long factors."""
    limit = long_rope_limit(config)
    return limit is not None and tokens > limit


@contextmanager
def rotate_as(model, long: bool) -> Iterator[None]:
    """Inside this context LongRoPE uses the long or the short factors, whatever the texts' lengths.

    Contexts may be nested. Models without LongRoPE are not changed.
    """
    limit = long_rope_limit(model.config) or 0
    modules = [m for m in model.modules() if hasattr(m, "rope_type")] if limit else []
    before = [(m, m.rope_type, {n: b.clone() for n, b in m.named_buffers()}) for m in modules]
    try:
        for module in modules:
            _set_factors(module, limit if long else 0)
        yield
    finally:
        for module, kind, buffers in before:
            module.rope_type = kind
            for name, buffer in buffers.items():
                module.get_buffer(name).copy_(buffer)


def _set_factors(module, position: int) -> None:
    """Gives a rotary embedding the factors of a text that ends at `position`, for all texts."""
    rope = module.config.rope_parameters
    by_layer = {layer: part["rope_type"] for layer, part in rope.items() if isinstance(part, dict)}
    module.rope_type = by_layer or rope["rope_type"]
    for layer in by_layer or [None]:
        buffer = module.get_buffer(f"{layer}_inv_freq" if layer else "inv_freq")
        positions = torch.tensor([[position]], device=buffer.device)
        # transformers sets the factors when the module is called
        module(buffer, positions, **({"layer_type": layer} if layer else {}))
    module.rope_type = dict.fromkeys(by_layer, FIXED) if by_layer else FIXED
