"""Sampling: the next token of each row from the model's logits, by the decoding settings.

A draw inverts the row's cumulative distribution, in the order of the vocabulary, at a uniform number
that belongs to this row and step. So it depends on the row's seed and logits, and not on the other rows
of the batch. No draw sorts the vocabulary: filters keep few tokens, which are found among the likeliest.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expertchat.settings.decoding import Decoding

CANDIDATES = (256, 2048, 16384)  # numbers of likeliest tokens among which the kept ones are sought
BLOCK = 256  # tokens of the vocabulary that are summed before they are searched


def uniforms(seed: int, count: int) -> np.ndarray:
    """Uniform numbers [count] for the draws of one continuation, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probability [...] of each token under logits [..., V] at the sampling temperature."""
    scaled = logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (Keskar et al. 2019): `logits` [rows, V], lower for the tokens `seen`.

    `seen` [rows, n]: token ids, which may repeat.
    """
    old = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(old > 0, old / penalty, old * penalty))


def likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` likeliest tokens by `logits` [rows, V], in descending order: (probabilities, ids), each
    [rows, k]."""
    values, ids = logits.float().topk(k, dim=-1)
    return (values - logits.float().logsumexp(-1, keepdim=True)).exp(), ids


def kept_tokens(logits: Tensor, size: int, decoding: Decoding) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens that pass the filters, sought among the `size` likeliest by 32-bit `logits` [rows, V].

    The filters are applied in this order: top-k keeps the `top_k` likeliest tokens, and all that are as
    likely as the last of them. Top-p (Holtzman et al. 2020) keeps the fewest of these whose share is at
    least `top_p`; of equally likely tokens the first of the vocabulary. Min-p (Nguyen et al. 2024) keeps
    those that are at least `min_p` times as likely as the likeliest. Unless `size` is V, it must be
    larger than `top_k`.

    Returns (ids [rows, size], ascending; their probabilities up to a factor per row [rows, size] in 64
    bits, 0 for those that are not kept; whether all kept tokens are among them [rows]).
    """
    values, ids = logits.topk(size, dim=-1)
    top_k = decoding.top_k if decoding.top_k is not None and decoding.top_k < logits.shape[1] else None
    if top_k is None and decoding.top_p < 1:
        weights = torch.softmax(logits, -1).gather(1, ids).double()
    else:  # their share of all tokens is not needed
        weights = torch.softmax(values, -1).double()
    passed = weights > 0
    if top_k is not None:
        passed &= values >= values[:, top_k - 1 : top_k]
    if decoding.top_p < 1:
        total = 1 if top_k is None else (weights * passed).sum(-1, keepdim=True)
        passed &= weights.cumsum(-1) - weights < decoding.top_p * total  # keeps the one that reaches it
    if decoding.min_p > 0:
        passed &= weights >= decoding.min_p * weights[:, :1]
    # the tokens that passed are the first `count`, up to those as likely as the last of them
    count = passed.sum(-1, keepdim=True).clamp(min=1)
    least = values.gather(1, count - 1)
    found_all = values[:, -1] < least[:, 0] if size < logits.shape[1] else torch.ones_like(passed[:, 0])
    ids, order = ids.sort(-1)
    values, weights = values.gather(1, order), weights.gather(1, order)
    above, equal = values > least, values == least
    kept = above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return ids, weights.masked_fill_(~kept, 0), found_all


def invert(weights: Tensor, target: Tensor) -> Tensor:
    """[rows, 1]: the first index at which the sum of `weights` exceeds `target` [rows, 1].

    `weights` [rows, n] in 64 bits. The index is that of a positive weight, even if rounding puts the
    target outside of the sums.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    target = target.clamp(min=0).minimum(total.nextafter(torch.zeros_like(total)))
    # without a positive weight, as with logits that are not numbers, it is some index of the row
    return torch.searchsorted(cumulative, target, right=True).clamp(max=weights.shape[1] - 1)


def draw_filtered(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """`draw` from the tokens that pass the filters; `logits` in 32 bits.

    Rows whose kept tokens are not all among the likeliest few are searched again among more.
    """
    vocabulary = logits.shape[1]
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    for size in [*(n for n in CANDIDATES if (decoding.top_k or 0) < n < vocabulary), vocabulary]:
        ids, weights, found_all = kept_tokens(logits, size, decoding)
        index = invert(weights, uniform * weights.sum(-1, keepdim=True))
        tokens[rows] = ids.gather(1, index).squeeze(1)  # those of rows searched again are replaced
        if bool(found_all.all()):
            break
        logits, uniform, rows = (t[~found_all] for t in (logits, uniform, rows))
    return tokens


def draw_unfiltered(logits: Tensor, uniform: Tensor) -> Tensor:
    """`draw` from all tokens; `logits` in 32 bits. The block of the drawn token is found first."""
    weights = torch.softmax(logits, -1)
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(-1).double()
    target = uniform * sums.sum(-1, keepdim=True)
    block = invert(sums, target)
    before = (sums.cumsum(-1) - sums).gather(1, block)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK)).squeeze(1).double()
    tokens = block * BLOCK + invert(inside, target - before)
    return tokens.squeeze(1).clamp(max=weights.shape[1] - 1)


def draw(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Token ids [rows] from logits [rows, V].

    The cumulative distribution is inverted at `uniform` [rows]; greedy decoding takes the likeliest
    tokens. Raises ValueError for contrastive search, which also needs hidden states.
    """
    if decoding.strategy == "contrastive":
        raise ValueError("contrastive search cannot choose tokens from logits alone")
    if decoding.strategy == "greedy":
        return logits.argmax(-1)
    logits, uniform = logits.float(), uniform.double().unsqueeze(1)
    if decoding.temperature != 1:
        logits = logits / decoding.temperature
    if decoding.top_k is None and decoding.top_p == 1 and decoding.min_p == 0:
        return draw_unfiltered(logits, uniform)
    return draw_filtered(logits, uniform, decoding)
