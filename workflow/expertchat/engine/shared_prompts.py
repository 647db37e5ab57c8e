"""Texts that begin alike, read as one row each: what they share is read once.

A row holds the shared tokens, then the rest of each text. A mask lets each token attend to the shared
ones and to the earlier ones of its own text, and each text's positions follow those of the shared
tokens. So every state and every gradient is that of the text read alone. Models that do not take such a
mask read complete texts (`why_whole`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertchat.engine.backbone import base_of
from expertchat.engine.generate.cache import why_not_reusable
from expertchat.engine.generate.generation import padded
from expertchat.engine.score.tokenized import common_prefix

Group = Sequence[Sequence[int]]  # token ids of texts that begin alike

TRIAL_GROUPS = ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8], [1, 2, 3, 7, 4, 4, 5]], [[9, 2, 3]])  # token ids
TOLERANCE = {torch.float32: 1e-3}  # largest difference in a trial, relative to the largest state
HALF_PRECISION_TOLERANCE = 0.1


@dataclass(frozen=True)
class Reader:
    """How a model reads texts that begin alike. `whole` says why it reads each one by itself, if so."""

    pad: int
    whole: str | None = None

    def tokens(self, group: Group) -> int:
        """Number of tokens that a pass over the texts of one group reads, padding included."""
        if self.whole is not None:
            return len(group) * max(map(len, group))
        shared = shared_length(group)
        return shared + sum(len(text) - shared for text in group)


@dataclass(frozen=True)
class SharedRows:
    """Groups of texts as rows [R, L] of one batch; text i is token `places[i]` of row `rows[i]`.

    `visible` [R, L, L] bool: which token each one attends to. `places` [texts, longest]: where the
    tokens of each text are in its row; beyond its end it repeats the last one.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    rows: Tensor
    places: Tensor


def shared_length(group: Group) -> int:
    """Number of tokens that all texts share, leaving at least one token of each."""
    return min(common_prefix([list(text) for text in group]), min(map(len, group)) - 1)


def shared_rows(groups: Sequence[Group], pad: int) -> SharedRows:
    """The groups as rows of a batch."""
    ids, positions, owners, rows, places = [], [], [], [], []
    for number, group in enumerate(groups):
        shared = shared_length(group)
        row, at, owner = list(group[0][:shared]), list(range(shared)), [-1] * shared
        for i, text in enumerate(group):
            rows.append(number)
            places.append([*range(shared), *range(len(row), len(row) + len(text) - shared)])
            row += text[shared:]
            at += range(shared, len(text))
            owner += [i] * (len(text) - shared)
        ids.append(row)
        positions.append(at)
        owners.append(owner)
    length, longest = max(map(len, ids)), max(map(len, places))
    owner = torch.tensor([own + [-2] * (length - len(own)) for own in owners])
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    own, shared_token = owner[:, :, None] == owner[:, None, :], (owner == -1)[:, None, :]
    visible = (own | (shared_token & (owner != -2)[:, :, None])) & earlier
    return SharedRows(
        torch.tensor([row + [pad] * (length - len(row)) for row in ids]),
        torch.tensor([at + [0] * (length - len(at)) for at in positions]),
        visible,
        torch.tensor(rows),
        torch.tensor([place + [place[-1]] * (longest - len(place)) for place in places]),
    )


def text_states(model, groups: Sequence[Group], reader: Reader, wanted: Tensor) -> Tensor:
    """Last hidden states [texts, W, hidden] at the tokens `wanted` [texts, W] of each text.

    `wanted` counts the tokens of a text from 0. Gradients flow to the trained weights.
    """
    base, device = base_of(model), model.device
    backbone = getattr(base, base.base_model_prefix)
    if reader.whole is not None or all(len(group) == 1 for group in groups):
        texts = [text for group in groups for text in group]
        ids, real = padded(texts, reader.pad, device, side="right")
        states = backbone(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        rows, places = torch.arange(len(texts)), wanted
    else:
        batch = shared_rows(groups, reader.pad)
        mask = torch.zeros(batch.visible.shape, dtype=model.dtype)
        mask.masked_fill_(~batch.visible, torch.finfo(model.dtype).min)
        states = backbone(
            input_ids=batch.ids.to(device),
            attention_mask=mask[:, None].to(device),
            position_ids=batch.positions.to(device),
            use_cache=False,
        ).last_hidden_state
        rows, places = batch.rows, batch.places.gather(1, wanted.cpu())
    return states[rows.to(states.device)[:, None], places.to(states.device)]


@torch.no_grad()  # tensors of inference mode could not be trained with later
def why_whole(model) -> str | None:
    """Why texts that begin alike cannot be read as one row; None if a trial run shows they can."""
    if (reason := why_not_reusable(model)) is not None:
        return reason
    attention = model.config.get_text_config()._attn_implementation
    if attention == "flash_attention_2":
        return f"{attention} takes no mask"
    last = torch.tensor([[len(text) - 1] for group in TRIAL_GROUPS for text in group])
    alone = torch.cat(
        [
            text_states(model, [[text]], Reader(0, "trial"), torch.tensor([[len(text) - 1]]))
            for group in TRIAL_GROUPS
            for text in group
        ]
    ).float()
    try:
        found = text_states(model, TRIAL_GROUPS, Reader(0), last)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        message = (str(error) or "no message").splitlines()[0]
        return f"a trial run raised {type(error).__name__}: {message}"
    quantized = getattr(model, "is_quantized", False)  # int8 rounding depends on the batch
    tolerance = TOLERANCE.get(model.dtype, HALF_PRECISION_TOLERANCE)
    tolerance = HALF_PRECISION_TOLERANCE if quantized else tolerance
    close = bool((found.float() - alone).abs().max() <= tolerance * alone.abs().max())
    return None if close else "a trial run gave other results than complete texts"
