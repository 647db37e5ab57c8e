"""Forest attention: one pass over many nodes of a prefix forest, each attending to its ancestors.

The nodes of a pass are concatenated to one row without padding, so that all operations on single tokens
run on full matrices. Attention is computed in parts: the tokens of each node attend to their own node;
and for each node with descendants, the tokens of all descendants attend to it in one product. The parts
are combined by their log-sum-exp (as in Ring and Flash attention; Dao et al. 2022, section 3.1), so
shared keys and values are never copied.
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
MIN_RELATIVE_LENGTH = 0.75  # of nodes that are padded together, relative to the longest of them

CachedNodes = dict[int, list[tuple[Tensor, Tensor]]]
"""By number of the node: keys and values [1, heads, tokens, dim] for each layer."""


@dataclass
class PassPlan:
    """One pass over consecutive nodes. Its ranges are (begin, end) and count the pass's tokens.

    `own`: ranges of the nodes, in parts of similar length that are padded together.
    `inner`: (queries begin, end, keys begin, end): descendants and their ancestor, both in this pass.
    `outer`: (cached node, queries end): descendants of a node of an earlier pass; they begin at 0.
    `keep`: (node, begin, end): nodes that later passes attend to.
    """

    ids: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]
    own: list[list[tuple[int, int]]]
    inner: list[tuple[int, int, int, int]]
    outer: list[tuple[int, int]]
    keep: list[tuple[int, int, int]]

    def __post_init__(self) -> None:
        self._gathers: dict[torch.device, list[tuple[Tensor, Tensor, Tensor]]] = {}

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    def gathers(self, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Indices for each part of `own` with several nodes.

        Returns (numbers of the pass's tokens, padded [nodes, longest]; flat indices of the real ones in
        it; numbers of the real tokens).
        """
        if device not in self._gathers:
            self._gathers[device] = [
                tuple(t.to(device) for t in _gather(part)) for part in self.own if len(part) > 1
            ]
        return self._gathers[device]

    def mask(self, cached: CachedNodes) -> Tensor:
        """[tokens, cached tokens + tokens] bool: which key each token attends to.

        The keys of cached nodes come first, in the order of `cached`.
        """
        before = sum(cached[node][0][0].shape[2] for node in cached)
        visible = torch.zeros(self.tokens, before + self.tokens, dtype=torch.bool)
        column = 0
        ends = dict(self.outer)
        for node, layers in cached.items():
            width = layers[0][0].shape[2]
            visible[: ends[node], column : column + width] = True
            column += width
        for begin, end in (span for part in self.own for span in part):
            block = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
            visible[begin:end, before + begin : before + end] = block
        for begin, end, first, last in self.inner:
            visible[begin:end, before + first : before + last] = True
        return visible


def plan_pass(forest: Forest, first: int, end: int, cached: Sequence[int], device) -> PassPlan:
    """The pass over the nodes from number `first` up to `end`; `cached`: numbers of cached nodes."""
    nodes = forest.nodes
    sizes = [len(node.ids) for node in nodes[first:end]]
    starts = np.cumsum([0, *sizes]).tolist()

    def descendants_end(number: int) -> int:
        """Where the tokens of the node's descendants end in this pass."""
        return starts[min(nodes[number].end, end) - first]

    spans = list(itertools.pairwise(starts))
    numbers = range(first, end)
    inner = [
        (spans[i - first][1], descendants_end(i), *spans[i - first])
        for i in numbers
        if min(nodes[i].end, end) > i + 1
    ]
    ids = np.concatenate([node.ids for node in nodes[first:end]]).astype(np.int64)
    positions = np.concatenate(
        [np.arange(node.start, node.start + len(node.ids)) for node in nodes[first:end]]
    )
    return PassPlan(
        torch.from_numpy(ids)[None].to(device),
        torch.from_numpy(positions)[None].to(device),
        _by_length(spans),
        inner,
        [(number, descendants_end(number)) for number in cached],
        [(i, *spans[i - first]) for i in numbers if nodes[i].end > end],
    )


def _by_length(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The ranges, divided into parts of similar length."""
    parts: list[list[tuple[int, int]]] = []
    for begin, end in sorted(spans, key=lambda span: span[0] - span[1]):
        longest = parts[-1][0][1] - parts[-1][0][0] if parts else 0
        if not parts or end - begin < MIN_RELATIVE_LENGTH * longest - 4:
            parts.append([])
        parts[-1].append((begin, end))
    return parts


def _gather(part: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """`PassPlan.gathers` for one part."""
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
    """One layer's cache in a pass: copies the keys and values that later passes need.

    Attention gets the new tokens' keys and values, after those of `before`.
    """

    def __init__(self, keep: Sequence[tuple[int, int, int]], before: Sequence[tuple[Tensor, Tensor]]):
        super().__init__()
        self.keep, self.before = keep, before
        self.copies: list[tuple[Tensor, Tensor]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.copies = [
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
    """The cache of one pass. `joined`: attention gets the cached nodes' keys before the new ones.

    `layer`: number of the layer that runs now; `attended`: number of layers that used forest attention.
    """

    def __init__(self, plan: PassPlan, cached: CachedNodes, layers: int, joined: bool):
        before = [[cached[node][layer] for node in cached] if joined else [] for layer in range(layers)]
        super().__init__(layers=[_Layer(plan.keep, pairs) for pairs in before])
        self.plan, self.cached, self.layer, self.attended = plan, cached, 0, 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        self.layer = layer_idx
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def nodes_after(self, end: int, forest: Forest) -> CachedNodes:
        """The cached nodes that passes from node number `end` on attend to."""
        nodes = {node: layers for node, layers in self.cached.items() if forest.nodes[node].end > end}
        for i, (node, _, _) in enumerate(self.plan.keep):
            nodes[node] = [layer.copies[i] for layer in self.layers]
        return nodes


_current = threading.local()  # `.cache`: cache of the pass that runs in this thread, None between passes


@contextmanager
def use_forest_attention(model, cache: PassCache) -> Iterator[None]:
    """Inside this context, `model` uses `forest_attention` with the cache's plan."""
    config = model.config.get_text_config()
    before, _current.cache = config._attn_implementation, cache
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation, _current.cache = before, None


class UnsupportedAttention(Exception):
    """The model's attention has features that forest attention does not implement."""


# arguments that are handled or have no effect here; windows are at least as long as any text
# (`generate.cache.why_not_reusable`)
KNOWN_ARGUMENTS = {"dropout", "scaling", "is_causal", "position_ids", "use_cache", "cache_position"}
KNOWN_ARGUMENTS |= {"sliding_window"}


def forest_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention output [1, tokens, heads, dim] for `query` [1, heads, tokens, dim] of the pass.

    `key` and `value` [1, shared heads, tokens, dim]. Raises UnsupportedAttention for arguments that are
    not implemented here.
    """
    other = {k for k, v in kwargs.items() if v is not None and v is not False} - KNOWN_ARGUMENTS
    cache = getattr(_current, "cache", None)
    if other or attention_mask is not None or cache is None or query.shape[2] != key.shape[2]:
        raise UnsupportedAttention(f"its attention uses {', '.join(sorted(other)) or 'its own cache'}")
    plan = cache.plan
    cache.attended += 1
    groups = query.shape[1] // key.shape[1]
    output, lse = _within_nodes(plan, query, key, value, groups, scaling)
    for node, end in plan.outer:
        keys, values = cache.cached[node][cache.layer]
        _combine(output, lse, 0, *_full_attention(query[:, :, :end], keys, values, groups, scaling))
    for begin, end, first, last in plan.inner:
        part = query[:, :, begin:end], key[:, :, first:last], value[:, :, first:last]
        _combine(output, lse, begin, *_full_attention(*part, groups, scaling))
    return output.unsqueeze(0).to(query.dtype), None


AttentionInterface.register(NAME, forest_attention)


def _within_nodes(plan, query, key, value, groups, scaling) -> tuple[Tensor, Tensor]:
    """Causal attention within each node: (output [tokens, heads, dim], log-sum-exp [tokens, heads])."""
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    tokens, heads = query.shape[2], query.shape[1]
    output = query.new_empty(tokens, heads, value.shape[3], dtype=torch.float32)
    lse = query.new_empty(tokens, heads, dtype=torch.float32)
    for begin, end in (part[0] for part in plan.own if len(part) == 1):
        one = (t[:, :, begin:end] for t in (query, key, value))
        part, part_lse = attend(*one, causal=True, scaling=scaling)
        output[begin:end], lse[begin:end] = part[0].transpose(0, 1), part_lse[0].T
    for padded, real, numbers in plan.gathers(query.device):
        rows = (t[0].transpose(0, 1)[padded].transpose(1, 2) for t in (query, key, value))
        part, part_lse = (
            t.transpose(1, 2).flatten(0, 1) for t in attend(*rows, causal=True, scaling=scaling)
        )
        output[numbers], lse[numbers] = part[real].float(), part_lse[real]
    return output, lse


def _full_attention(query, key, value, groups, scaling) -> tuple[Tensor, Tensor]:
    """All queries to all keys: (output [tokens, heads, dim], log-sum-exp [tokens, heads]).

    Query heads that share keys are treated as additional tokens, so that keys need no copies.
    """
    _, heads, tokens, dim = query.shape
    grouped = query.reshape(1, heads // groups, groups * tokens, dim)
    out, lse = attend(grouped, key, value, causal=False, scaling=scaling)
    return out.reshape(heads, tokens, -1).transpose(0, 1), lse.reshape(heads, tokens).T


def _combine(output: Tensor, lse: Tensor, begin: int, part: Tensor, part_lse: Tensor) -> None:
    """Adds the attention to another part of the keys to the tokens from `begin` on, in place."""
    end = begin + len(part)
    own = lse[begin:end]
    share = torch.sigmoid(part_lse - own).unsqueeze(-1)
    output[begin:end].lerp_(part.float(), share)
    lse[begin:end] = torch.logaddexp(own, part_lse)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Fused attention: (output [rows, heads, new, dim], log-sum-exp [rows, heads, new] in 32 bits).

    The arguments are [rows, heads, tokens, dim]. `causal`: each token attends to the keys up to its own;
    there must be as many keys as queries.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scaling
        )
    if query.device.type == "cuda" and query.shape[3] % 8 == 0:
        output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scaling
        )
        return output, lse[:, :, : query.shape[2]]  # the kernel pads the log-sum-exp
    return attend_plainly(query, key, value, causal, scaling)


def attend_plainly(query, key, value, causal, scaling) -> tuple[Tensor, Tensor]:
    """`attend` by the definition of attention, in 32 bits."""
    scaling = 1 / math.sqrt(query.shape[3]) if scaling is None else scaling
    scores = query.float() @ key.float().transpose(2, 3) * scaling
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp() @ value.float(), lse
