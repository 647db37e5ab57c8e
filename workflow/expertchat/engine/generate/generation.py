"""Generation: reads a batch of prompts, then draws one token per row and step until all rows ended.

A row that has ended is removed from the batch. A prompt that several rows share is read once. Of a
prompt that continues a session, only the tokens that are not cached are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from expertchat.engine.backbone import (
    backbone_states,
    base_of,
    forward_arguments,
    forward_parameters,
    project,
)
from expertchat.engine.finite import require_finite_logits
from expertchat.engine.generate.cache import CachedPrefix, KVCache, is_reusable
from expertchat.engine.generate.sampling import draw, penalise, token_logprobs
from expertchat.engine.generate.stopping import Completion, StoppingRules
from expertchat.engine.rotation import rotate_as
from expertchat.engine.score.tokenized import common_prefix
from expertchat.settings.decoding import Decoding

PACK_SHARE = 0.75  # ended rows are removed once at most this share of the rows is unfinished


def padded(rows: Sequence[Sequence[int]], pad: int, device, side: str) -> tuple[Tensor, Tensor]:
    """(ids, mask), both [rows, longest], padded on the "left" or the "right"."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
        mask[i, columns] = 1
    return ids.to(device), mask.to(device)


def position_ids(mask: Tensor) -> Tensor:
    """Positions [rows, tokens] that count only real tokens, from 0; padding has some valid position."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def forward_pass(model, ids: Tensor, mask: Tensor, cache, **kwargs):
    """The model's output for the tokens [rows, n] that follow the cached ones.

    `mask` [rows, slots] covers the cache's slots and the new ones. Keyword arguments that the model
    does not accept are left out.
    """
    accepted = forward_parameters(base_of(model))
    kwargs = {name: value for name, value in kwargs.items() if name in accepted}
    return model(**_arguments(base_of(model), ids, mask, cache), **kwargs)


def next_logits(model, ids: Tensor, mask: Tensor, cache) -> Tensor:
    """Logits [rows, V] after the last of the tokens [rows, n] that follow the cached ones.

    `mask` as of `forward_pass`.
    """
    base = base_of(model)
    if (output := backbone_states(base, _arguments(base, ids, mask, cache))) is not None:
        states, head = output
        return project(head, states[:, -1]).to(ids.device)
    return forward_pass(model, ids, mask, cache, logits_to_keep=1).logits[:, -1]


def _arguments(base, ids: Tensor, mask: Tensor, cache) -> dict[str, Any]:
    """Arguments of a forward pass, as far as the model accepts them."""
    one = ids.shape[1] == 1
    positions = (
        (mask.sum(1, keepdim=True) - 1).clamp(min=0) if one else position_ids(mask)[:, -ids.shape[1] :]
    )
    attention = base.config.get_text_config()._attn_implementation
    if one and attention == "sdpa" and isinstance(cache, KVCache):
        mask = mask.bool()[:, None, None, :]  # else transformers would compute it again for each token
    arguments = forward_arguments(ids, mask, positions, cache)
    if "position_ids" not in forward_parameters(base):
        del arguments["position_ids"]
    return arguments


@dataclass
class BatchState:
    """A batch whose tokens have all been read: the next tokens can be drawn from `logits`."""

    cache: KVCache | DynamicCache
    mask: Tensor  # [rows, slots]
    logits: Tensor  # [rows, V], of the next token
    states: Tensor | None = None  # [rows, slots or more, hidden] at length 1, for contrastive search

    def copy_row(self, row: int, ids: Sequence[int]) -> CachedPrefix:
        """A copy of one row's cache. The row's cached tokens are the first of `ids`."""
        slots = self.mask[row].nonzero().squeeze(-1)
        prefix = self.cache.copy_row(row, slots, list(ids[: len(slots)]))
        return prefix if self.states is None else replace(prefix, states=self.states[row, slots])

    def select(self, rows: Tensor) -> BatchState:
        """The state with only these rows, in this order; a row may occur several times."""
        if len(rows) == len(self.mask) and bool((rows.cpu() == torch.arange(len(rows))).all()):
            return self
        if isinstance(self.cache, KVCache):
            self.cache.select(rows)
        else:
            self.cache.reorder_cache(rows)  # unlike batch_select_indices also for recurrent states
        states = None if self.states is None else self.states[rows]
        return BatchState(self.cache, self.mask[rows], self.logits[rows], states)


def cached_lengths(prompts: Sequence[list[int]], prefixes: Sequence[CachedPrefix | None]) -> list[int]:
    """Number of tokens of each prompt that are cached; never the last, whose logits are needed."""
    return [
        min(common_prefix([prompt, prefix.ids]), len(prompt) - 1) if prefix is not None else 0
        for prompt, prefix in zip(prompts, prefixes, strict=True)
    ]


def split_cached(
    model,
    prompts: Sequence[list[int]],
    pad: int,
    prefixes: Sequence[CachedPrefix | None],
    room: int,
    reusable: bool,
) -> tuple[Tensor, Tensor, KVCache | DynamicCache]:
    """Splits prompts into cached and new tokens: (new ids [rows, new], mask [rows, slots], cache).

    Arguments as of `read_prompts`.
    """
    lengths = cached_lengths(prompts, prefixes)
    longest = max(lengths)
    new = [prompt[n:] for prompt, n in zip(prompts, lengths, strict=True)]
    ids, new_mask = padded(new, pad, model.device, side="left")
    old_mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths], dtype=torch.long)
    mask = torch.cat([old_mask.to(new_mask).reshape(len(prompts), longest), new_mask], 1)
    if reusable:
        layers = model.config.get_text_config().num_hidden_layers
        cache = KVCache.from_prefixes(prefixes, lengths, layers, mask.shape[1] + room)
    else:
        cache = DynamicCache(config=model.config)
    return ids, mask, cache


def read_prompts(
    model,
    prompts: Sequence[list[int]],
    pad: int,
    prefixes: Sequence[CachedPrefix | None],
    room: int,
    reusable: bool,
) -> BatchState:
    """Reads prompts (prefill), starting each from its cached prefix, if it has one.

    `room`: number of tokens that may follow. `reusable`: whether the model's cache can be reused
    (`is_reusable`); without it all prefixes must be None.
    """
    ids, mask, cache = split_cached(model, prompts, pad, prefixes, room, reusable)
    return BatchState(cache, mask, next_logits(model, ids, mask, cache))


class _Row:
    """One continuation: the index of its result, its prompt and its drawn tokens."""

    def __init__(self, index: int, prompt: Sequence[int]):
        self.index, self.prompt = index, prompt
        self.ids: list[int] = []
        self.logprobs: list[float] = []


class Continuations:
    """The continuations of a batch: the rows that are still in it, and the results of all rows.

    A row with more than `limit` tokens leaves the batch before its end, and is then in `suspended`.
    `records`: whether completions have the log-probabilities of their tokens.
    """

    def __init__(
        self,
        prompts: Sequence[list[int]],
        stopping: StoppingRules,
        keep_cache: Sequence[bool],
        limit: int | None = None,
        records: bool = False,
    ):
        """`keep_cache`: whether to return the cache of each row; empty: of none."""
        self.rows = [_Row(index, prompt) for index, prompt in enumerate(prompts)]
        self.stopping, self.keep_cache = stopping, keep_cache or [False] * len(prompts)
        self.completions: dict[int, Completion] = {}  # of the rows that have ended, by their index
        self.prefixes: list[CachedPrefix | None] = [None] * len(prompts)
        self.limit, self.records = limit, records
        self.suspended: dict[int, _Row] = {}  # by the row's index

    def _is_done(self, row: _Row) -> bool:
        """Whether the row is no longer continued in this batch."""
        return row.index in self.completions or row.index in self.suspended

    def resume(self) -> list[_Row]:
        """Returns the suspended rows, which from now on are the rows of the batch, without a limit."""
        self.rows, self.suspended, self.limit = list(self.suspended.values()), {}, None
        return self.rows

    def add(self, tokens: Tensor, logprobs: Tensor | None = None) -> None:
        """Appends the next token [rows], and its log-probability, to each row that has not ended."""
        values = [None] * len(self.rows) if logprobs is None else logprobs.tolist()
        for row, token, value in zip(self.rows, tokens.tolist(), values, strict=True):
            if not self._is_done(row):
                row.ids.append(token)
                if value is not None:
                    row.logprobs.append(value)
                completion = self.stopping.check(row.ids)
                if completion is not None:
                    self.completions[row.index] = replace(completion, logprobs=row.logprobs)
                elif self.limit is not None and len(row.prompt) + len(row.ids) > self.limit:
                    self.suspended[row.index] = row

    def unfinished(self, device) -> Tensor:
        """[rows, 1]: 1 for unfinished rows, 0 for rows that have ended or are suspended."""
        flags = [[int(not self._is_done(row))] for row in self.rows]
        return torch.tensor(flags, device=device)

    def remove_ended(self, state: BatchState) -> list[int] | None:
        """Removes rows that ended or are suspended, if they are many enough.

        Returns the numbers of the remaining rows.

        Returns None if nothing was removed.
        """
        remaining = [i for i, row in enumerate(self.rows) if not self._is_done(row)]
        if len(remaining) > PACK_SHARE * len(self.rows):
            return None
        for i, row in enumerate(self.rows):
            if row.index in self.completions and self.keep_cache[row.index]:
                self.prefixes[row.index] = state.copy_row(i, [*row.prompt, *row.ids])
        self.rows = [self.rows[i] for i in remaining]
        return remaining

    def results(self) -> tuple[list[Completion], list[CachedPrefix | None]]:
        """Completions and cached prefixes (None if not requested) of all rows, once all have ended."""
        return [self.completions[index] for index in range(len(self.prefixes))], self.prefixes


def continue_batch(
    model,
    state: BatchState,
    prompts: Sequence[list[int]],
    uniform: np.ndarray,
    decoding: Decoding,
    stopping: StoppingRules,
    pad: int,
    keep_cache: Sequence[bool] = (),
    limit: int | None = None,
    records: bool = False,
) -> tuple[list[Completion], list[CachedPrefix | None]]:
    """Draws tokens for a batch from `read_prompts` until every row has ended.

    `uniform` [rows, tokens]: uniform numbers, one per draw. `keep_cache`: whether to return the cache of
    each row. `limit`: number of tokens after which LongRoPE uses its long factors, for a batch of
    shorter prompts; a row that passes it is read again from its start (as by transformers'
    `Phi3ForCausalLM.prepare_inputs_for_generation`). `records`: whether completions have the
    log-probabilities of their tokens.
    Returns completions and cached prefixes (None if not requested), in the order of the rows.
    """
    rows = Continuations(prompts, stopping, keep_cache, limit, records)
    _draw_until_done(model, state, rows, uniform, decoding, pad)
    if rows.suspended:
        texts = [[*row.prompt, *row.ids] for row in rows.resume()]
        uniform = np.stack([np.roll(uniform[row.index], -len(row.ids)) for row in rows.rows])
        reusable = isinstance(state.cache, KVCache)
        with rotate_as(model, long=True):
            prefixes = [None] * len(texts)
            state = read_prompts(model, texts, pad, prefixes, stopping.max_tokens, reusable)
            _draw_until_done(model, state, rows, uniform, decoding, pad)
    return rows.results()


def _draw_until_done(
    model, state: BatchState, rows: Continuations, uniform: np.ndarray, decoding: Decoding, pad: int
) -> None:
    """Draws tokens until all rows have ended or are suspended. Arguments as of `continue_batch`."""
    device = model.device
    prompts = [[*row.prompt, *row.ids] for row in rows.rows]
    numbers = torch.from_numpy(uniform).to(device)
    penalty = decoding.repetition_penalty
    seen = seen_tokens(prompts, state.logits.device) if penalty != 1 else None
    step = 0
    while True:
        logits = state.logits if seen is None else penalise(state.logits, seen, penalty)
        require_finite_logits(logits, model.config.name_or_path)
        tokens = draw(logits, numbers[:, step], decoding)
        if seen is not None:
            seen = torch.cat([seen, tokens.unsqueeze(1)], 1)
        rows.add(tokens, token_logprobs(logits, tokens, decoding.temperature) if rows.records else None)
        remaining = rows.remove_ended(state)
        if remaining is not None:
            if not remaining:
                return
            kept = torch.tensor(remaining, device=device)
            state, tokens, numbers = state.select(kept), tokens[kept], numbers[kept]
            seen = None if seen is None else seen[kept]
        unfinished = rows.unfinished(device)
        mask = torch.cat([state.mask, unfinished], 1)
        tokens = torch.where(unfinished.squeeze(1) > 0, tokens, pad)
        state = BatchState(
            state.cache, mask, next_logits(model, tokens.unsqueeze(-1), mask, state.cache)
        )
        step += 1


def seen_tokens(prompts: Sequence[list[int]], device) -> Tensor:
    """[rows, n]: the tokens of each prompt; shorter prompts repeat their first token."""
    longest = max(map(len, prompts))
    rows = [[*prompt, *prompt[:1] * (longest - len(prompt))] for prompt in prompts]
    return torch.tensor(rows, device=device)


def complete_prompts(
    model, prompts: Sequence[list[int]], uniform: np.ndarray, decoding: Decoding, tokenizer, end_ids
) -> list[Completion]:
    """Completions of prompts in one batch, with the log-probabilities of their tokens.

    Equal prompts are read once.
    `uniform` [rows, tokens]: uniform numbers, one per draw.
    """
    pad, stopping = tokenizer.pad_token_id, StoppingRules(decoding, end_ids, tokenizer)
    places = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    different = list(map(list, places))
    prefixes = [None] * len(different)
    state = read_prompts(model, different, pad, prefixes, stopping.max_tokens, is_reusable(model))
    state = state.select(torch.tensor([places[tuple(p)] for p in prompts], device=model.device))
    return continue_batch(model, state, prompts, uniform, decoding, stopping, pad, records=True)[0]
