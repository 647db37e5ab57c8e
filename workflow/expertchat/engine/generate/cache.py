"""The KV cache: keys and values of the tokens that a model has read, written in place.

A `KVCache` stores a batch of rows in slots; a separate mask says which slots are real tokens and which
are padding. A `CachedPrefix` is a copy of one row without padding, from which a later batch can start.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from expertchat.engine.backbone import base_of


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, slots, dim] of one layer, in buffers with room for more slots.

    transformers' own layer grows by concatenation, which copies the complete cache at each token.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.length = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._buffer(key_states, self.room)
        self.values = self._buffer(value_states, self.room)
        self.is_initialized = True

    def _buffer(self, like: Tensor, room: int) -> Tensor:
        # zeros: masked slots are still multiplied, and uninitialized memory may contain NaN
        return like.new_zeros((like.shape[0], like.shape[1], max(room, like.shape[2]), like.shape[3]))

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Writes the new slots; returns keys and values of all slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        if end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, end), self._grown(self.values, end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, old: Tensor, needed: int) -> Tensor:
        new = self._buffer(old, max(needed, 2 * old.shape[2]))
        new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last slots; their number is given as a negative number."""
        self.length -= abs(tokens_to_remove)

    def keep_one(self, choice: Tensor, count: int) -> None:
        """Of the last `count` slots keeps the `choice`-th of each row [rows] and removes the others."""
        rows, first = torch.arange(len(choice), device=self.device), self.length - count
        chosen = first + choice.to(self.device)
        self.keys[:, :, first] = self.keys[rows, :, chosen]
        self.values[:, :, first] = self.values[rows, :, chosen]
        self.length = first + 1

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; a row may occur several times."""
        self.keys = self.keys.index_select(0, rows.to(self.keys.device))
        self.values = self.values.index_select(0, rows.to(self.values.device))


@dataclass(frozen=True)
class CachedPrefix:
    """The cached tokens of one conversation: ids, and keys and values [heads, tokens, dim] per layer.

    `states` [tokens, hidden]: the last hidden states, normalized to length 1; only contrastive search
    computes them.
    """

    ids: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    states: Tensor | None = None

    def bytes(self) -> int:
        """Memory of all its tensors."""
        states = [] if self.states is None else [self.states]
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, *states))


class KVCache(Cache):
    """The cache of a batch, with room for `room` slots before a buffer must grow."""

    def __init__(self, layers: int, room: int):
        super().__init__(layers=[GrowingLayer(room) for _ in range(layers)])

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; a row may occur several times."""
        for layer in self.layers:
            layer.select(rows)

    def keep_one(self, choice: Tensor, count: int) -> None:
        """Of the last `count` slots keeps the `choice`-th of each row [rows] and removes the others."""
        for layer in self.layers:
            layer.keep_one(choice, count)

    def copy_row(self, row: int, slots: Tensor, ids: list[int]) -> CachedPrefix:
        """A copy of one row's keys and values in `slots` (indices); `ids` are the tokens in them."""
        keys = [layer.keys[row].index_select(1, slots.to(layer.device)) for layer in self.layers]
        values = [layer.values[row].index_select(1, slots.to(layer.device)) for layer in self.layers]
        return CachedPrefix(ids, keys, values)

    @classmethod
    def from_prefixes(
        cls, prefixes: Sequence[CachedPrefix | None], lengths: Sequence[int], layers: int, room: int
    ) -> KVCache:
        """A batch whose rows are the first `lengths` tokens of the prefixes, padded on the left."""
        cache, longest = cls(layers, room), max(lengths)
        first = next((prefix for prefix in prefixes if prefix is not None), None)
        if longest == 0 or first is None:
            return cache
        for number, layer in enumerate(cache.layers):
            like = first.keys[number], first.values[number]
            keys, values = (t.new_zeros(len(prefixes), t.shape[0], longest, t.shape[2]) for t in like)
            for row, (prefix, length) in enumerate(zip(prefixes, lengths, strict=True)):
                if prefix is not None and length:
                    keys[row, :, longest - length :] = prefix.keys[number][:, :length]
                    values[row, :, longest - length :] = prefix.values[number][:, :length]
            layer.update(keys, values)
        return cache


class Sessions:
    """Cached prefixes of the conversations that may be continued, within `budget` bytes.

    A prefix that does not fit is not stored, so its conversation is recomputed. Stored prefixes are not
    evicted for new ones: dialogues take turns, so the least recently used is the next to be needed.

    Keys and values depend on the adapter that computed them. Prefixes are stored and found under
    `adapter`, which names the one in use; None: the model without an adapter.
    """

    def __init__(self, budget: int):
        self.budget, self.used = budget, 0
        self.adapter: str | None = None
        self._prefixes: dict[tuple[str | None, str], CachedPrefix] = {}

    def find(self, session: str | None) -> CachedPrefix | None:
        """The conversation's cached prefix; None if there is none."""
        return None if session is None else self._prefixes.get((self.adapter, session))

    def store(self, session: str, prefix: CachedPrefix) -> None:
        """Replaces the conversation's cached prefix; removes it if the new one does not fit."""
        self.drop(session)
        if self.used + prefix.bytes() <= self.budget:
            self._prefixes[self.adapter, session] = prefix
            self.used += prefix.bytes()

    def drop(self, session: str) -> None:
        """Removes the conversation's cached prefix."""
        old = self._prefixes.pop((self.adapter, session), None)
        self.used -= old.bytes() if old else 0

    def clear(self) -> None:
        """Removes all cached prefixes, of all adapters."""
        self._prefixes.clear()
        self.used = 0


# positions are slot numbers, so that gaps would change them: ALiBi, or (GPT-Neo) masks of its own
SLOT_POSITIONS = {"mpt", "bloom", "gpt_neo"}


def why_not_reusable(model) -> str | None:
    """The reason why the model's cached keys and values cannot be reused; None if they can.

    Reuse requires full attention, and positions that are passed in.
    """
    config = model.config.get_text_config()
    base = base_of(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    # Phi-3-128k reads 131,072 tokens and has a window of 262,144
    limited = window and window < (getattr(config, "max_position_embeddings", None) or math.inf)
    if config.model_type in SLOT_POSITIONS or getattr(config, "alibi", False):
        return "the model's positions are the numbers of the cache's slots"
    if limited or kinds - {"full_attention"}:
        return "not all of the model's layers attend to the complete text"
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "the model computes positions itself"
    return None


def is_reusable(model) -> bool:
    """Whether the model's cached keys and values can be reused for another batch."""
    return why_not_reusable(model) is None
