"""The next token from the model's logits, by the decoding that the settings ask for.

What is drawn for a row is the inverse of its distribution at a number of its own, so that it does not
depend on the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from expertchat.settings.decoding import Decoding


def uniforms(seed: int, count: int) -> np.ndarray:
    """[count] uniform numbers for the draws of one continuation, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [rows, V] with those of `seen` [rows, V] tokens made less likely (Keskar et al. 2019)."""
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """`probabilities` [..., V] without the unlikely tail, renormalised (Holtzman et al. 2020)."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # keeps the token that crosses top_p
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def likeliest(probabilities: Tensor, top_k: int | None) -> Tensor:
    """`probabilities` [..., V] of the `top_k` likeliest tokens only, renormalised."""
    if top_k is None or top_k >= probabilities.shape[-1]:
        return probabilities
    limit = probabilities.topk(top_k, dim=-1).values[..., -1:]
    kept = probabilities * (probabilities >= limit)
    return kept / kept.sum(-1, keepdim=True)


def likely_enough(probabilities: Tensor, min_p: float) -> Tensor:
    """`probabilities` [..., V] of tokens at least `min_p` times as likely as the likeliest one,
    renormalised (Nguyen et al. 2024)."""
    if min_p == 0:
        return probabilities
    kept = probabilities * (probabilities >= min_p * probabilities.amax(-1, keepdim=True))
    return kept / kept.sum(-1, keepdim=True)


def distribution(logits: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities [rows, V] in 32 bits that a token is drawn from."""
    probabilities = torch.softmax(logits.float() / decoding.temperature, -1)
    probabilities = nucleus(likeliest(probabilities, decoding.top_k), decoding.top_p)
    return likely_enough(probabilities, decoding.min_p)


def draw(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Token ids [rows] from logits [rows, V]: by inverting the distribution at uniform [rows], or the
    likeliest ones where decoding is greedy. Contrastive search needs more than logits: ValueError."""
    if decoding.strategy == "contrastive":
        raise ValueError("contrastive search cannot choose by logits alone")
    if decoding.strategy == "greedy":
        return logits.argmax(-1)
    cumulative = distribution(logits, decoding).cumsum(-1, dtype=torch.float64)
    target = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
