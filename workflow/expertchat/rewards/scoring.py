"""Scores of candidate replies, read by context: the prompt that the candidates share is read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from expertchat.engine.training import Reader, text_states
from expertchat.rewards.length_head import QUALITY


def score_head(model) -> Tensor:
    """The weights [heads, hidden] of a reward model's score head."""
    (weights,) = [p for n, p in model.named_parameters() if "score.modules_to_save" in n]
    return weights


def candidate_scores(model, rows: Sequence[Sequence[int]], reader: Reader) -> Tensor:
    """The scores [rows, heads], in float32, of the candidates of one context.

    `rows` are their token ids, prompt included. Gradients flow to the trained weights.
    """
    weights, last = score_head(model), torch.tensor([[len(row) - 1] for row in rows])
    # trained weights are float32, the backbone may have a smaller type
    with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
        states = text_states(model, [rows], reader, last)
    return states.squeeze(1).float().to(weights.device) @ weights.float().T


@torch.no_grad()  # tensors of inference mode could not be trained with later
def score_contexts(
    model, contexts: Iterable[Sequence[Sequence[int]]], reader: Reader, on_tokens=None
) -> list[list[float]]:
    """The scores of the candidates of each context, by the first head.

    `on_tokens` gets the tokens read after each context.
    """
    model.eval()
    scores = []
    for rows in contexts:
        scores.append(candidate_scores(model, rows, reader)[:, QUALITY].tolist())
        if on_tokens is not None:
            on_tokens(reader.tokens(rows))
    return scores


def combine(scores: np.ndarray, spread_penalty: float) -> np.ndarray:
    """The ensemble's scores [candidates] from its members' scores [members, candidates].

    They are the mean minus `spread_penalty` times the standard deviation, which is 0 for one member.

    Coste et al. (2024, section 4.2) subtract the variance; with the standard deviation, scores of twice
    the size give combined scores of twice the size.
    """
    return scores.mean(0) - spread_penalty * scores.std(0)
