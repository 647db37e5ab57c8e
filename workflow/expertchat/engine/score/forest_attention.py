"""Reading a forest's nodes: which tokens attend to which, and attention that follows it.

The nodes that are read together stand side by side in one row without padding, so that all that a model
does a token at a time is done on whole matrices. Attention goes in parts: each node's tokens to
themselves; and, for each node that has descendants, those of all of them to its tokens in one product.
Parts are joined by their log-sum-exp (as in Ring and Flash attention; Dao et al. 2022, section 3.1), so
nothing is copied for each text that shares it.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from expertchat.engine.score.forest import Forest

NAME = "expertchat_forest"
ALIKE = 0.75  # nodes padded together are at least this long, by the longest of them

HeldNodes = dict[
    int, list[tuple[Tensor, Tensor]]
]  # node to keys and values [1, heads, tokens, dim] a layer


@dataclass
class Plan:
    """One pass over the nodes from `first` up to `end`.

    Ranges count the pass's tokens. `own`: nodes' ranges that are padded together; `inner`: (queries
    from, up to, keys from, up to); `outer`: (held node, queries up to), the queries begin at 0; `keep`:
    (node, from, up to) of what later passes attend to.
    """

    ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    own: list[list[tuple[int, int]]]
    inner: list[tuple[int, int, int, int]]
    outer: list[tuple[int, int]]
    keep: list[tuple[int, int, int]]

    def __post_init__(self):
        self._gathers: dict[torch.device, list[tuple[Tensor, Tensor, Tensor]]] = {}

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    def gathers(self, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each part of `own`: (padded [nodes, longest] token numbers, the places of the real ones in
        it, and their token numbers)."""
        if device not in self._gathers:
            self._gathers[device] = [
                tuple(t.to(device) for t in _gather(part)) for part in self.own if len(part) > 1
            ]
        return self._gathers[device]

    def mask(self, held: HeldNodes) -> Tensor:
        """[tokens, held tokens and tokens] bool: what sees what. Held nodes come in their order."""
        before = sum(held[node][0][0].shape[2] for node in held)
        sees = torch.zeros(self.tokens, before + self.tokens, dtype=torch.bool)
        column = 0
        ends = dict(self.outer)
        for node, layers in held.items():
            width = layers[0][0].shape[2]
            sees[: ends[node], column : column + width] = True
            column += width
        for begin, end in (span for part in self.own for span in part):
            block = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
            sees[begin:end, before + begin : before + end] = block
        for begin, end, first, last in self.inner:
            sees[begin:end, before + first : before + last] = True
        return sees


def make_plan(forest: Forest, first: int, end: int, held: Sequence[int], device) -> Plan:
    """The pass over the nodes from `first` up to `end`; `held`: what of those before it is held."""
    nodes = forest.nodes
    sizes = [len(node.ids) for node in nodes[first:end]]
    place = np.cumsum([0, *sizes]).tolist()

    def behind(number: int) -> int:
        """Where the tokens of the node's descendants end in this pass."""
        return place[min(nodes[number].end, end) - first]

    spans = list(itertools.pairwise(place))
    here = range(first, end)
    inner = [
        (spans[i - first][1], behind(i), *spans[i - first])
        for i in here
        if min(nodes[i].end, end) > i + 1
    ]
    ids = np.concatenate([node.ids for node in nodes[first:end]]).astype(np.int64)
    positions = np.concatenate(
        [np.arange(node.start, node.start + len(node.ids)) for node in nodes[first:end]]
    )
    return Plan(
        torch.from_numpy(ids)[None].to(device),
        torch.from_numpy(positions)[None].to(device),
        _alike(spans),
        inner,
        [(number, behind(number)) for number in held],
        [(i, *spans[i - first]) for i in here if nodes[i].end > end],
    )


def _alike(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The ranges in parts of like length."""
    parts: list[list[tuple[int, int]]] = []
    for begin, end in sorted(spans, key=lambda span: span[0] - span[1]):
        longest = parts[-1][0][1] - parts[-1][0][0] if parts else 0
        if not parts or end - begin < ALIKE * longest - 4:
            parts.append([])
        parts[-1].append((begin, end))
    return parts


def _gather(part: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """`Plan.gathers` for one part."""
    longest = max(end - begin for begin, end in part)
    begins = np.array([begin for begin, _ in part])[:, None]
    sizes = np.array([end - begin for begin, end in part])[:, None]
    steps = np.arange(longest)[None]
    real = steps < sizes
    padded = begins + np.minimum(steps, sizes - 1)
    return (
        torch.from_numpy(padded),
        torch.from_numpy(np.flatnonzero(real)),
        torch.from_numpy(padded[real]),
    )


class _Layer(DynamicLayer):
    """Keeps of one layer what later passes need; gives attention the new tokens, after `before`."""

    def __init__(self, keep: Sequence[tuple[int, int, int]], before: Sequence[tuple[Tensor, Tensor]]):
        super().__init__()
        self.keep, self.before = keep, before
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.kept = [
            (key_states[:, :, begin:end].clone(), value_states[:, :, begin:end].clone())
            for _, begin, end in self.keep
        ]
        if not self.before:
            return key_states, value_states
        keys, values = zip(*self.before, (key_states, value_states), strict=True)
        return torch.cat(keys, 2), torch.cat(values, 2)

    def get_seq_length(self) -> int:
        return sum(keys.shape[2] for keys, _ in self.before)


class PassCache(Cache):
    """The cache of one pass. `joined`: attention is given the held nodes' keys before the new ones."""

    def __init__(self, plan: Plan, held: HeldNodes, layers: int, joined: bool):
        before = [[held[node][layer] for node in held] if joined else [] for layer in range(layers)]
        super().__init__(layers=[_Layer(plan.keep, each) for each in before])
        self.plan, self.held, self.layer, self.attended = plan, held, 0, 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        self.layer = layer_idx
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def kept(self, end: int, forest: Forest) -> HeldNodes:
        """What is held for the passes from node `end` on."""
        found = {node: layers for node, layers in self.held.items() if forest.nodes[node].end > end}
        for place, (node, _, _) in enumerate(self.plan.keep):
            found[node] = [layer.kept[place] for layer in self.layers]
        return found


_now = threading.local()  # its `cache`: that of the pass under way in this thread


@contextmanager
def attending(model, cache: PassCache) -> Iterator[None]:
    """Has `model` attend by the cache's plan meanwhile."""
    config = model.config.get_text_config()
    before, _now.cache = config._attn_implementation, cache
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation, _now.cache = before, None


class Unlike(Exception):
    """Attention of a kind that is not done here."""


PLAIN_TERMS = {"dropout", "scaling", "is_causal", "position_ids", "use_cache", "cache_position"}


def forest_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """What attention gives [1, tokens, heads, dim] for `query` [1, heads, tokens, dim] of the pass.

    `key` and `value`: [1, shared heads, tokens, dim]. Raises Unlike for terms beyond the usual ones.
    """
    other = {k for k, v in kwargs.items() if v is not None and v is not False} - PLAIN_TERMS
    cache = getattr(_now, "cache", None)
    if other or attention_mask is not None or cache is None or query.shape[2] != key.shape[2]:
        raise Unlike(f"attention takes {sorted(other)}")
    plan = cache.plan
    cache.attended += 1
    groups = query.shape[1] // key.shape[1]
    output, weight = _to_themselves(plan, query, key, value, groups, scaling)
    for node, end in plan.outer:
        keys, values = cache.held[node][cache.layer]
        _join(output, weight, 0, *_to_all(query[:, :, :end], keys, values, groups, scaling))
    for begin, end, first, last in plan.inner:
        part = query[:, :, begin:end], key[:, :, first:last], value[:, :, first:last]
        _join(output, weight, begin, *_to_all(*part, groups, scaling))
    return output.unsqueeze(0).to(query.dtype), None


AttentionInterface.register(NAME, forest_attention)


def _to_themselves(plan, query, key, value, groups, scaling) -> tuple[Tensor, Tensor]:
    """(output [tokens, heads, dim], log-sum-exp [tokens, heads]) of each node's tokens to its own."""
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    tokens, heads = query.shape[2], query.shape[1]
    output = query.new_empty(tokens, heads, value.shape[3], dtype=torch.float32)
    weight = query.new_empty(tokens, heads, dtype=torch.float32)
    for begin, end in (part[0] for part in plan.own if len(part) == 1):
        one = (t[:, :, begin:end] for t in (query, key, value))
        out, lse = attend(*one, True, scaling)
        output[begin:end], weight[begin:end] = out[0].transpose(0, 1), lse[0].T
    for padded, real, numbers in plan.gathers(query.device):
        rows = (t[0].transpose(0, 1)[padded].transpose(1, 2) for t in (query, key, value))
        out, lse = attend(*rows, True, scaling)
        out, lse = out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)
        output[numbers], weight[numbers] = out[real].float(), lse[real]
    return output, weight


def _to_all(query, key, value, groups, scaling) -> tuple[Tensor, Tensor]:
    """(output [tokens, heads, dim], log-sum-exp [tokens, heads]) of all queries to all keys.

    Query heads that share keys stand side by side as further tokens.
    """
    _, heads, tokens, dim = query.shape
    out, lse = attend(
        query.reshape(1, heads // groups, groups * tokens, dim), key, value, False, scaling
    )
    return out.reshape(heads, tokens, -1).transpose(0, 1), lse.reshape(heads, tokens).T


def _join(output: Tensor, weight: Tensor, begin: int, more: Tensor, more_weight: Tensor) -> None:
    """Takes another part of the keys into the tokens from `begin` on, in place."""
    end = begin + len(more)
    own = weight[begin:end]
    share = torch.sigmoid(more_weight - own).unsqueeze(-1)
    output[begin:end].lerp_(more.float(), share)
    weight[begin:end] = torch.logaddexp(own, more_weight)


def attend(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """(output [rows, heads, new, dim], log-sum-exp [rows, heads, new] in 32 bits).

    All are [rows, heads, tokens, dim]. `causal`: a token sees those up to itself, of as many keys.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
    if query.device.type == "cuda" and query.shape[3] % 8 == 0:
        found = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scaling
        )
        return found[0], found[1][:, :, : query.shape[2]]
    return attend_plainly(query, key, value, causal, scaling)


def attend_plainly(query, key, value, causal, scaling) -> tuple[Tensor, Tensor]:
    """`attend` by its definition, in 32 bits."""
    scaling = 1 / math.sqrt(query.shape[3]) if scaling is None else scaling
    scores = query.float() @ key.float().transpose(2, 3) * scaling
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp() @ value.float(), lse
