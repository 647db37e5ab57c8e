"""A second score head that takes the length of a reply out of its score (ODIN, Chen et al. 2024).

Two heads read the same states. The sum of their scores predicts the preference; one head's scores shall
follow the lengths of the replies, the other's shall not, and their weights shall be orthogonal (Chen et
al. 2024, section 3). After training only the second, the head of quality, is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUALITY, LENGTH = 0, 1  # rows of the score head's weights, and columns of the scores


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two vectors [N]; 0 if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    scale = x.norm() * y.norm()
    return (x @ y) / scale if bool(scale > 0) else (x @ y) * 0


def length_loss(scores: Tensor, lengths: Tensor) -> Tensor:
    """The loss on the scores [N, 2] of replies of the given lengths [N], in tokens: from -1 to 2."""
    lengths = lengths.to(scores)
    quality, length = (correlation(scores[:, head], lengths) for head in (QUALITY, LENGTH))
    return quality.abs() - length


def overlap(weights: Tensor) -> Tensor:
    """How far from orthogonal the weights [2, hidden] of the heads are: the absolute inner product."""
    return (weights[QUALITY].float() @ weights[LENGTH].float()).abs()


def batch_gradients(
    scores: Tensor, pair_losses_of, lengths: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """(loss, its gradient [N, 2]) of a batch's scores [N, 2]: the ranking loss and the length loss.

    `pair_losses_of` maps the sums [N] of both heads' scores to the losses of the batch's pairs. The
    correlation needs the scores of the whole batch, while gradients are computed context by context.
    """
    scores = scores.detach().requires_grad_()
    with torch.enable_grad():
        losses = pair_losses_of(scores.sum(1))
        loss = losses.mean() + weight * length_loss(scores, lengths)
        (gradient,) = torch.autograd.grad(loss, scores)
    return loss.detach(), gradient
