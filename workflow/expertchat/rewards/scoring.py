"""Scores of candidate replies, read by context: the prompt that the candidates share is read once.

The candidates of a context form one row: the shared tokens, then the rest of each candidate. A mask
lets each token attend to the shared ones and to the earlier ones of its own candidate, and each
candidate's positions follow those of the shared tokens. So every score and every gradient is that of the
candidate read alone. Models that do not take such a mask read complete candidates (`why_whole`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertchat.engine.training import common_prefix, padded, why_not_reusable
from expertchat.rewards.length_head import QUALITY

TRIAL_ROWS = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8], [1, 2, 3, 7, 4, 4, 5])  # token ids of a trial
TOLERANCE = {torch.float32: 1e-3}  # largest difference in a trial, relative to the largest state
HALF_PRECISION_TOLERANCE = 0.1


@dataclass(frozen=True)
class Reader:
    """How a model's candidates are read. `whole` says why they do not share their prompt, if so."""

    pad: int
    whole: str | None = None

    def tokens(self, rows: Sequence[Sequence[int]]) -> int:
        """Number of tokens that a pass over the candidates of one context reads, padding included."""
        if self.whole is not None:
            return len(rows) * max(map(len, rows))
        shared = shared_length(rows)
        return shared + sum(len(row) - shared for row in rows)


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all rows share, leaving at least one token of each row."""
    return min(common_prefix([list(row) for row in rows]), min(map(len, rows)) - 1)


def shared_row(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The candidates of one context as one row: (ids, positions, visible, last).

    `ids` and `positions` [1, tokens]; `visible` [tokens, tokens] bool: which token each one attends to;
    `last` [rows]: where each candidate's last token is.
    """
    shared = shared_length(rows)
    rests = [len(row) - shared for row in rows]
    ids = [*rows[0][:shared], *(token for row in rows for token in row[shared:])]
    positions = [*range(shared), *(p for rest in rests for p in range(shared, shared + rest))]
    owner = torch.tensor([-1] * shared + [i for i, rest in enumerate(rests) for _ in range(rest)])
    own = owner[:, None] == owner[None, :]
    visible = (own | (owner == -1)[None, :]).tril()
    last = torch.tensor(rests).cumsum(0) + shared - 1
    return torch.tensor([ids]), torch.tensor([positions]), visible, last


def score_head(model) -> Tensor:
    """The weights [heads, hidden] of a reward model's score head."""
    (weights,) = [p for n, p in model.named_parameters() if "score.modules_to_save" in n]
    return weights


def last_states(model, rows: Sequence[Sequence[int]], reader: Reader) -> Tensor:
    """The hidden states [rows, hidden] of the last token of each candidate of one context."""
    base, device = model.get_base_model(), model.device
    backbone = getattr(base, base.base_model_prefix)
    # trained weights are float32, the backbone may have a smaller type
    with torch.autocast(device.type, model.dtype, enabled=model.dtype != torch.float32):
        if reader.whole is not None:
            ids, real = padded(rows, reader.pad, device, side="right")
            output = backbone(input_ids=ids, attention_mask=real, use_cache=False)
            last = real.sum(1) - 1
            return output.last_hidden_state[torch.arange(len(rows), device=device), last]
        ids, positions, visible, last = shared_row(rows)
        mask = torch.zeros(visible.shape, dtype=model.dtype)
        mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
        output = backbone(
            input_ids=ids.to(device),
            attention_mask=mask[None, None].to(device),
            position_ids=positions.to(device),
            use_cache=False,
        )
        states = output.last_hidden_state[0]
        return states[last.to(states.device)]


def candidate_scores(model, rows: Sequence[Sequence[int]], reader: Reader) -> Tensor:
    """The scores [rows, heads], in float32, of the candidates of one context.

    `rows` are their token ids, prompt included. Gradients flow to the trained weights.
    """
    weights = score_head(model)
    return last_states(model, rows, reader).float().to(weights.device) @ weights.float().T


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


@torch.no_grad()  # tensors of inference mode could not be trained with later
def why_whole(model) -> str | None:
    """Why the candidates of a context cannot be read as one row; None if a trial run shows they can."""
    if (reason := why_not_reusable(model)) is not None:
        return reason
    attention = model.config.get_text_config()._attn_implementation
    if attention == "flash_attention_2":
        return f"{attention} takes no mask"
    expected = [last_states(model, [row], Reader(0, "trial"))[0] for row in TRIAL_ROWS]
    try:
        found = last_states(model, TRIAL_ROWS, Reader(0))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        message = (str(error) or "no message").splitlines()[0]
        return f"a trial run raised {type(error).__name__}: {message}"
    alone = torch.stack(expected).float()
    quantized = getattr(model, "is_quantized", False)  # int8 rounding depends on the batch
    tolerance = TOLERANCE.get(model.dtype, HALF_PRECISION_TOLERANCE)
    tolerance = HALF_PRECISION_TOLERANCE if quantized else tolerance
    close = bool((found.float() - alone).abs().max() <= tolerance * alone.abs().max())
    return None if close else "a trial run gave other results than complete candidates"
