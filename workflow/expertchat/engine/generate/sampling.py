"""Sampling: the next token of each row from the model's logits, by the decoding settings.

A draw inverts the row's cumulative distribution at a uniform number that belongs to this row and step.
So it depends on the row's seed and logits, and not on the other rows of the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from expertchat.settings.decoding import Decoding


def uniforms(seed: int, count: int) -> np.ndarray:
    """Uniform numbers [count] for the draws of one continuation, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (Keskar et al. 2019): `seen` [rows, V] tokens get lower logits [rows, V]."""
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Nucleus (top-p) filter of `probabilities` [..., V], renormalised (Holtzman et al. 2020).

    Keeps the likeliest tokens whose probabilities sum to `top_p`.
    """
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # keeps the token that reaches top_p
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def keep_top_k(probabilities: Tensor, top_k: int | None) -> Tensor:
    """Top-k filter: `probabilities` [..., V] of the `top_k` likeliest tokens, renormalised."""
    if top_k is None or top_k >= probabilities.shape[-1]:
        return probabilities
    limit = probabilities.topk(top_k, dim=-1).values[..., -1:]
    kept = probabilities * (probabilities >= limit)
    return kept / kept.sum(-1, keepdim=True)


def keep_min_p(probabilities: Tensor, min_p: float) -> Tensor:
    """Min-p filter of `probabilities` [..., V], renormalised (Nguyen et al. 2024).

    Keeps the tokens that are at least `min_p` times as likely as the likeliest one.
    """
    if min_p == 0:
        return probabilities
    kept = probabilities * (probabilities >= min_p * probabilities.amax(-1, keepdim=True))
    return kept / kept.sum(-1, keepdim=True)


def distribution(logits: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities [rows, V] in 32 bits from which tokens are drawn."""
    probabilities = torch.softmax(logits.float() / decoding.temperature, -1)
    probabilities = nucleus(keep_top_k(probabilities, decoding.top_k), decoding.top_p)
    return keep_min_p(probabilities, decoding.min_p)


def draw(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Token ids [rows] from logits [rows, V].

    The cumulative distribution is inverted at `uniform` [rows]; greedy decoding takes the likeliest
    tokens. Raises ValueError for contrastive search, which also needs hidden states.
    """
    if decoding.strategy == "contrastive":
        raise ValueError("contrastive search cannot choose tokens from logits alone")
    if decoding.strategy == "greedy":
        return logits.argmax(-1)
    cumulative = distribution(logits, decoding).cumsum(-1, dtype=torch.float64)
    target = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
