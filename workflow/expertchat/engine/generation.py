"""Continuing a batch of prompts, token by token, on a cache of what was read.

Rows that have ended leave the batch; rows that share a prompt read it once; what a session's last
call has read is not read again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from expertchat.engine.cache import Held, KVCache
from expertchat.engine.endings import Completion, Endings
from expertchat.engine.next_token import draw, penalise
from expertchat.probes import common_prefix
from expertchat.settings.decoding import Decoding

LEAVE_AT = 0.75  # the batch is packed when at most this share of its rows goes on


def padded(rows: Sequence[Sequence[int]], pad: int, device, side: str) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [rows, longest], filled up on the "left" or the "right"."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)


def position_ids(mask: Tensor) -> Tensor:
    """Positions [rows, tokens] that count real tokens only, from 0; padding has some valid one."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def forward(model, ids: Tensor, mask: Tensor, cache, **kwargs):
    """The model's output for the tokens [rows, n] that follow those in the cache.

    `mask` [rows, slots] covers the cache's slots and the new ones.
    """
    taken = _taken(type(model.get_base_model() if hasattr(model, "get_base_model") else model))
    kwargs["position_ids"] = position_ids(mask)[:, -ids.shape[1] :]
    return model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **{name: value for name, value in kwargs.items() if name in taken},
    )


@functools.cache
def _taken(model_class: type) -> frozenset[str]:
    """The arguments of a model's forward pass: some count positions themselves."""
    return frozenset(inspect.signature(model_class.forward).parameters)


@dataclass
class Read:
    """A batch that was read up to its last token."""

    cache: KVCache | DynamicCache
    mask: Tensor  # [rows, slots]
    logits: Tensor  # [rows, V], of the next token
    states: Tensor | None = None  # [rows, slots, hidden], where asked for


def read_prompts(
    model, prompts: Sequence[list[int]], pad: int, held: Sequence[Held | None], room: int, share: bool
) -> Read:
    """Reads prompts; of each, what `held` has of its beginning is taken from there.

    `room`: tokens that will follow. `share`: whether the model's cache can be shared.
    """
    lengths = [
        min(common_prefix([prompt, h.ids]), len(prompt) - 1) if h is not None else 0
        for prompt, h in zip(prompts, held, strict=True)
    ]
    longest = max(lengths)
    news = [prompt[n:] for prompt, n in zip(prompts, lengths, strict=True)]
    ids, new_mask = padded(news, pad, model.device, side="left")
    old_mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths], dtype=torch.long)
    mask = torch.cat([old_mask.to(new_mask).reshape(len(prompts), longest), new_mask], 1)
    if share:
        layers = model.config.get_text_config().num_hidden_layers
        cache = KVCache.of(held, lengths, layers, mask.shape[1] + room)
    else:
        cache = DynamicCache(config=model.config)
    output = forward(model, ids, mask, cache, logits_to_keep=1)
    return Read(output.past_key_values, mask, output.logits[:, -1])


def expand(read: Read, rows: Tensor) -> Read:
    """The rows of `read` that `rows` names, in its order; a row may be named several times."""
    if len(rows) == len(read.mask) and bool((rows.cpu() == torch.arange(len(rows))).all()):
        return read
    if isinstance(read.cache, KVCache):
        read.cache.select(rows)
    else:
        read.cache.batch_select_indices(rows)
    return Read(read.cache, read.mask[rows], read.logits[rows])


class _Row:
    """One continuation: its place in the results, its prompt's and its own tokens."""

    def __init__(self, place: int, prompt: Sequence[int]):
        self.place, self.prompt, self.ids = place, prompt, []


def continue_read(
    model,
    read: Read,
    prompts: Sequence[list[int]],
    uniform: np.ndarray,
    decoding: Decoding,
    endings: Endings,
    pad: int,
    hold: Sequence[bool] = (),
) -> tuple[list[Completion], list[Held | None]]:
    """Continues a batch that was read, until each row has ended.

    `uniform`: [rows, tokens] numbers for the draws. `hold`: rows whose cache is wanted back. Returns
    completions and what is held, both in the order of the rows.
    """
    device = model.device
    rows = [_Row(place, prompt) for place, prompt in enumerate(prompts)]
    numbers = torch.from_numpy(uniform).to(device)
    done: list[Completion | None] = [None] * len(rows)
    held: list[Held | None] = [None] * len(rows)
    seen = _seen(prompts, read.logits) if decoding.repetition_penalty != 1 else None
    step = 0
    while True:
        logits = (
            read.logits if seen is None else penalise(read.logits, seen, decoding.repetition_penalty)
        )
        tokens = draw(logits, numbers[:, step], decoding)
        if seen is not None:
            seen[torch.arange(len(rows), device=device), tokens] = True
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if done[row.place] is None:
                row.ids.append(token)
                done[row.place] = endings.check(row.ids)
        going = [i for i, row in enumerate(rows) if done[row.place] is None]
        if len(going) <= LEAVE_AT * len(rows):
            for i, row in enumerate(rows):
                if done[row.place] is not None and hold and hold[row.place]:
                    slots = read.mask[i].nonzero().squeeze(-1)
                    fed = [*row.prompt, *row.ids][: len(slots)]  # the last token drawn was never read
                    held[row.place] = read.cache.hold(i, slots, fed)
            if not going:
                return done, held
            keep = torch.tensor(going, device=device)
            read, rows = expand(read, keep), [rows[i] for i in going]
            tokens, numbers = tokens[keep], numbers[keep]
            seen = None if seen is None else seen[keep]
        alive = torch.tensor([[int(done[row.place] is None)] for row in rows], device=device)
        mask = torch.cat([read.mask, alive], 1)
        tokens = torch.where(alive.squeeze(1) > 0, tokens, pad)
        output = forward(model, tokens.unsqueeze(-1), mask, read.cache, logits_to_keep=1)
        read = Read(read.cache, mask, output.logits[:, -1])
        step += 1


def _seen(prompts: Sequence[list[int]], logits: Tensor) -> Tensor:
    """[rows, V] bool: the tokens of each prompt."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt, device=logits.device)] = True
    return seen


def continue_prompts(
    model, prompts: Sequence[list[int]], uniform: np.ndarray, decoding: Decoding, tokenizer, ends
) -> list[Completion]:
    """Continues prompts together, from scratch. `uniform`: [rows, tokens]."""
    from expertchat.engine.cache import shareable

    pad, endings = tokenizer.pad_token_id, Endings(decoding, ends, tokenizer)
    nothing = [None] * len(prompts)
    read = read_prompts(model, prompts, pad, nothing, endings.last, shareable(model))
    return continue_read(model, read, prompts, uniform, decoding, endings, pad)[0]
