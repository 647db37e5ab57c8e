"""Continuing a batch of prompts, token by token, on a cache of what was read.

Rows that have ended leave the batch; rows that share a prompt read it once; what a session's last
call has read is not read again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from expertchat.engine.generate.cache import Held, KVCache, base_of
from expertchat.engine.generate.sampling import draw, penalise
from expertchat.engine.generate.stopping import Completion, Endings
from expertchat.engine.score.tokenized import common_prefix
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
    base = base_of(model)
    accepted = taken(type(base))
    one = ids.shape[1] == 1
    kwargs["position_ids"] = (
        (mask.sum(1, keepdim=True) - 1).clamp(min=0) if one else position_ids(mask)[:, -ids.shape[1] :]
    )
    attention = base.config.get_text_config()._attn_implementation
    if one and attention == "sdpa" and isinstance(cache, KVCache):
        mask = mask.bool()[:, None, None, :]  # what transformers would work out from it, at each token
    return model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
        **{name: value for name, value in kwargs.items() if name in accepted},
    )


@functools.cache
def taken(model_class: type) -> frozenset[str]:
    """The arguments of a model's forward pass: some count positions themselves."""
    return frozenset(inspect.signature(model_class.forward).parameters)


@dataclass
class Read:
    """A batch that was read up to its last token."""

    cache: KVCache | DynamicCache
    mask: Tensor  # [rows, slots]
    logits: Tensor  # [rows, V], of the next token
    states: Tensor | None = None  # [rows, slots and room, hidden] at length 1, for contrastive search

    def hold(self, row: int, ids: Sequence[int]) -> Held:
        """A copy of what was read of one row; its tokens are the first of `ids`."""
        slots = self.mask[row].nonzero().squeeze(-1)
        held = self.cache.hold(row, slots, list(ids[: len(slots)]))
        return held if self.states is None else replace(held, states=self.states[row, slots])


def held_lengths(prompts: Sequence[list[int]], held: Sequence[Held | None]) -> list[int]:
    """Tokens of each prompt's beginning that need not be read again; its last one must be."""
    return [
        min(common_prefix([prompt, h.ids]), len(prompt) - 1) if h is not None else 0
        for prompt, h in zip(prompts, held, strict=True)
    ]


def resume(
    model, prompts: Sequence[list[int]], pad: int, held: Sequence[Held | None], room: int, share: bool
) -> tuple[Tensor, Tensor, KVCache | DynamicCache]:
    """What is to be read: (ids [rows, new], mask [rows, slots], cache of what is held)."""
    lengths = held_lengths(prompts, held)
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
    return ids, mask, cache


def read_prompts(
    model, prompts: Sequence[list[int]], pad: int, held: Sequence[Held | None], room: int, share: bool
) -> Read:
    """Reads prompts; of each, what `held` has of its beginning is taken from there.

    `room`: tokens that will follow. `share`: whether the model's cache can be shared.
    """
    ids, mask, cache = resume(model, prompts, pad, held, room, share)
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
    states = None if read.states is None else read.states[rows]
    return Read(read.cache, read.mask[rows], read.logits[rows], states)


class _Row:
    """One continuation: its place in the results, its prompt's and its own tokens."""

    def __init__(self, place: int, prompt: Sequence[int]):
        self.place, self.prompt, self.ids = place, prompt, []


class Continuations:
    """The rows of a batch, in the order in which it has them now, and what came of all of them."""

    def __init__(self, prompts: Sequence[list[int]], endings: Endings, hold: Sequence[bool]):
        """`hold`: rows whose cache is wanted back; empty for none."""
        self.rows = [_Row(place, prompt) for place, prompt in enumerate(prompts)]
        self.endings, self.hold = endings, hold or [False] * len(prompts)
        self.done: list[Completion | None] = [None] * len(prompts)
        self.held: list[Held | None] = [None] * len(prompts)

    def add(self, tokens: Tensor) -> None:
        """Takes the next token [rows] of each row that has not ended."""
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            if self.done[row.place] is None:
                row.ids.append(token)
                self.done[row.place] = self.endings.check(row.ids)

    def alive(self, device) -> Tensor:
        """[rows, 1] of 1, and of 0 where the row has ended."""
        return torch.tensor([[int(self.done[row.place] is None)] for row in self.rows], device=device)

    def leave(self, read: Read) -> list[int] | None:
        """The numbers of the rows that stay, where enough have ended for the others to leave."""
        going = [i for i, row in enumerate(self.rows) if self.done[row.place] is None]
        if len(going) > LEAVE_AT * len(self.rows):
            return None
        for i, row in enumerate(self.rows):
            if self.done[row.place] is not None and self.hold[row.place]:
                self.held[row.place] = read.hold(i, [*row.prompt, *row.ids])
        self.rows = [self.rows[i] for i in going]
        return going


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
    rows = Continuations(prompts, endings, hold)
    numbers = torch.from_numpy(uniform).to(device)
    seen = seen_tokens(prompts, read.logits) if decoding.repetition_penalty != 1 else None
    step = 0
    while True:
        logits = (
            read.logits if seen is None else penalise(read.logits, seen, decoding.repetition_penalty)
        )
        tokens = draw(logits, numbers[:, step], decoding)
        if seen is not None:
            seen.scatter_(1, tokens.unsqueeze(1), True)
        rows.add(tokens)
        going = rows.leave(read)
        if going is not None:
            if not going:
                return rows.done, rows.held
            keep = torch.tensor(going, device=device)
            read, tokens, numbers = expand(read, keep), tokens[keep], numbers[keep]
            seen = None if seen is None else seen[keep]
        alive = rows.alive(device)
        mask = torch.cat([read.mask, alive], 1)
        tokens = torch.where(alive.squeeze(1) > 0, tokens, pad)
        output = forward(model, tokens.unsqueeze(-1), mask, read.cache, logits_to_keep=1)
        read = Read(read.cache, mask, output.logits[:, -1])
        step += 1


def seen_tokens(prompts: Sequence[list[int]], logits: Tensor) -> Tensor:
    """[rows, V] bool: the tokens of each prompt."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt, device=logits.device)] = True
    return seen


def continue_prompts(
    model, prompts: Sequence[list[int]], uniform: np.ndarray, decoding: Decoding, tokenizer, ends
) -> list[Completion]:
    """Continues prompts together, from scratch. `uniform`: [rows, tokens]."""
    from expertchat.engine.generate.cache import shareable

    pad, endings = tokenizer.pad_token_id, Endings(decoding, ends, tokenizer)
    nothing = [None] * len(prompts)
    read = read_prompts(model, prompts, pad, nothing, endings.last, shareable(model))
    return continue_read(model, read, prompts, uniform, decoding, endings, pad)[0]
