"""What attention keeps of the tokens that a model has read: keys and values, written in place.

A `KVCache` holds a batch of rows in slots; a mask elsewhere says which slots are real. A `Held` is one
row of it, without padding, to be taken up again later.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, slots, dim] of one layer, in buffers with room for more slots.

    Growing by concatenation would copy all that was read, at each token.
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
        # zeros, as what is masked is still multiplied, and chance bytes may be NaN
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
        """Forgets the last slots: as many as the number below zero says."""
        self.length -= abs(tokens_to_remove)

    def keep(self, choice: Tensor, count: int) -> None:
        """Of the last `count` slots keeps one a row, the `choice`-th [rows], and forgets the others."""
        rows, first = torch.arange(len(choice), device=self.device), self.length - count
        chosen = first + choice.to(self.device)
        self.keys[:, :, first] = self.keys[rows, :, chosen]
        self.values[:, :, first] = self.values[rows, :, chosen]
        self.length = first + 1

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; a row may be named several times."""
        self.keys = self.keys.index_select(0, rows.to(self.keys.device))
        self.values = self.values.index_select(0, rows.to(self.values.device))


def base_of(model):
    """The model beneath its adapters, or itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass(frozen=True)
class Held:
    """What was read of one conversation: token ids, and keys and values [heads, tokens, dim] a layer.

    `states` [tokens, hidden]: the last hidden states at length 1, where contrastive search read it.
    """

    ids: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    states: Tensor | None = None

    def bytes(self) -> int:
        """Memory that it takes."""
        states = [] if self.states is None else [self.states]
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, *states))


class KVCache(Cache):
    """The cache of a batch, with room for `room` slots before a buffer must grow."""

    def __init__(self, layers: int, room: int):
        super().__init__(layers=[GrowingLayer(room) for _ in range(layers)])

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; a row may be named several times."""
        for layer in self.layers:
            layer.select(rows)

    def keep(self, choice: Tensor, count: int) -> None:
        """Of the last `count` slots keeps one a row, the `choice`-th [rows], and forgets the others."""
        for layer in self.layers:
            layer.keep(choice, count)

    def hold(self, row: int, slots: Tensor, ids: list[int]) -> Held:
        """A copy of what one row has in `slots` (indices), which are those of `ids`."""
        keys = [layer.keys[row].index_select(1, slots.to(layer.device)) for layer in self.layers]
        values = [layer.values[row].index_select(1, slots.to(layer.device)) for layer in self.layers]
        return Held(ids, keys, values)

    @classmethod
    def of(cls, rows: Sequence[Held | None], lengths: Sequence[int], layers: int, room: int) -> KVCache:
        """A batch from the first `lengths` tokens of held rows, each flush right."""
        cache, longest = cls(layers, room), max(lengths)
        first = next((held for held in rows if held is not None), None)
        if longest == 0 or first is None:
            return cache
        for number, layer in enumerate(cache.layers):
            like = first.keys[number], first.values[number]
            keys, values = (t.new_zeros(len(rows), t.shape[0], longest, t.shape[2]) for t in like)
            for row, (held, length) in enumerate(zip(rows, lengths, strict=True)):
                if length:
                    keys[row, :, longest - length :] = held.keys[number][:, :length]
                    values[row, :, longest - length :] = held.values[number][:, :length]
            layer.update(keys, values)
        return cache


class Sessions:
    """Conversations that an engine may be asked to go on with, within `budget` bytes.

    What does not fit is not held and will be read again: nothing is thrown out for it, as dialogues
    take turns, and the next to be thrown out would be the next to be needed.
    """

    def __init__(self, budget: int):
        self.budget, self.used = budget, 0
        self._held: dict[str, Held] = {}

    def find(self, session: str | None) -> Held | None:
        """What is held of the conversation."""
        return self._held.get(session)

    def keep(self, session: str, held: Held) -> None:
        """Holds this in place of what was held of the conversation, where it fits."""
        self.drop(session)
        if self.used + held.bytes() <= self.budget:
            self._held[session] = held
            self.used += held.bytes()

    def drop(self, session: str) -> None:
        """Forgets the conversation."""
        old = self._held.pop(session, None)
        self.used -= old.bytes() if old else 0

    def clear(self) -> None:
        """Forgets all conversations."""
        self._held.clear()
        self.used = 0


# position is a matter of the slot, so slots may have no gaps: ALiBi, or (GPT-Neo) masks of its own
BY_SLOT = {"mpt", "bloom", "gpt_neo"}
BY_LENGTH = {"dynamic", "longrope"}  # rotations of what was read change as the text grows


def why_unshared(model) -> str | None:
    """Why no part of what the model has read can be reused, in words; None where it can.

    Reuse needs full attention and positions that are given, not counted, and never change.
    """
    config = model.config.get_text_config()
    base = base_of(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type in BY_SLOT or getattr(config, "alibi", False):
        return "its positions are those of the cache's slots"
    if windows or kinds - {"full_attention"}:
        return "not all of its layers attend to the whole text"
    if rope.get("rope_type") in BY_LENGTH:
        return "its positions depend on the text's length"
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "it counts positions itself"
    return None


def shareable(model) -> bool:
    """Whether parts of what the model has read can be reused."""
    return why_unshared(model) is None
