"""Contrastive search: likely tokens whose hidden state differs from those of earlier tokens.

Su et al. 2022, "A Contrastive Framework for Neural Text Generation": of the k likeliest tokens v, the
next token is the one with the largest (1 - alpha) p(v | x) - alpha max_j cos(h_v, h_xj), where h are the
last hidden states and j runs over all tokens of the prompt and of the reply. All k candidates of a row
are read in one forward pass; each attends to the earlier tokens and to itself. The cache then keeps
the chosen candidate only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from expertchat.engine.backbone import backbone_states, base_of, forward_arguments, project
from expertchat.engine.finite import require_finite_logits
from expertchat.engine.generate.cache import CachedPrefix, KVCache
from expertchat.engine.generate.generation import (
    BatchState,
    Continuations,
    cached_lengths,
    position_ids,
    seen_tokens,
    split_cached,
)
from expertchat.engine.generate.grouped_attention import use_grouped_attention
from expertchat.engine.generate.sampling import likeliest, penalise
from expertchat.engine.generate.stopping import Completion, StoppingRules
from expertchat.engine.rotation import long_rope_limit
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding

TOP_K = 4  # number of candidates if the settings give none


def check_contrastive(model, reusable: bool) -> None:
    """Raises UserError if the model cannot read several candidates in one pass.

    `reusable`: whether the model's cached keys and values can be reused (`is_reusable`).
    """
    if not reusable:
        kind = model.config.get_text_config().model_type
        raise UserError(
            f"decoding.strategy: contrastive; the attention of a {kind} model cannot read several "
            "candidates in one pass; set it to sampling or greedy for this model"
        )
    if model.config.get_text_config()._attn_implementation == "flash_attention_2":
        raise UserError(
            "decoding.strategy: contrastive; flash_attention_2 does not support the mask that it "
            "needs; set the model's load.attention to sdpa"
        )


def check_crossing(config, prompt_lengths: Sequence[int], decoding: Decoding) -> None:
    """Raises UserError if a reply can cross the length at which LongRoPE changes its factors.

    The cached states of all tokens would have to be computed again in the middle of the search.
    """
    limit = long_rope_limit(config)
    longest = decoding.max_new_tokens + decoding.grace_tokens
    if limit is not None and any(tokens <= limit < tokens + longest for tokens in prompt_lengths):
        raise UserError(
            f"decoding.strategy: contrastive; a reply may end after token {limit}, where this model "
            "(LongRoPE) changes its rotary factors: lower turns or max_new_tokens, or set the strategy "
            "to sampling or greedy"
        )


def read_prompts_with_states(
    model,
    prompts: Sequence[list[int]],
    pad: int,
    prefixes: Sequence[CachedPrefix | None],
    decoding: Decoding,
    stopping: StoppingRules,
) -> BatchState:
    """`read_prompts` that also returns the hidden states of all tokens.

    A cached prefix without states is not used. The tensors have room for the longest completion.
    """
    room = stopping.max_tokens + (decoding.top_k or TOP_K)
    prefixes = [p if p is not None and p.states is not None else None for p in prefixes]
    ids, mask, cache = split_cached(model, prompts, pad, prefixes, room, reusable=True)
    positions = position_ids(mask)[:, -ids.shape[1] :]
    states, logits_at = _forward_with_states(model, ids, mask, positions, cache, last_only=True)
    old = mask.shape[1] - ids.shape[1]
    all_states = states.new_zeros(len(mask), mask.shape[1] + room, states.shape[2])
    all_states[:, old : mask.shape[1]] = states
    for row, (prefix, length) in enumerate(
        zip(prefixes, cached_lengths(prompts, prefixes), strict=True)
    ):
        if prefix is not None and prefix.states is not None and length:
            all_states[row, old - length : old] = prefix.states[:length]
    last = torch.full((len(mask),), ids.shape[1] - 1, device=mask.device)
    return BatchState(cache, mask, logits_at(last), all_states)


def continue_contrastive(
    model,
    state: BatchState,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    stopping: StoppingRules,
    keep_cache: Sequence[bool] = (),
) -> tuple[list[Completion], list[CachedPrefix | None]]:
    """Continues a batch from `read_prompts_with_states` until every row has ended.

    `keep_cache`: whether to return the cache of each row. Returns completions and cached prefixes (None
    if not requested), in the order of the rows.
    """
    k = min(decoding.top_k or TOP_K, state.logits.shape[-1])
    penalty = decoding.repetition_penalty
    rows = Continuations(prompts, stopping, keep_cache)
    seen = seen_tokens(prompts, state.logits.device) if penalty != 1 else None
    while True:
        logits = state.logits if seen is None else penalise(state.logits, seen, penalty)
        require_finite_logits(logits, model.config.name_or_path)
        likelihood, candidates = likeliest(logits, k)
        unfinished = rows.unfinished(state.mask.device)
        alpha = decoding.penalty_alpha
        state, choice = choose(model, state, candidates, likelihood, alpha, unfinished)
        tokens = candidates.gather(1, choice.unsqueeze(1))
        if seen is not None:
            seen = torch.cat([seen, tokens], 1)
        rows.add(tokens.squeeze(1))
        remaining = rows.remove_ended(state)
        if remaining is not None:
            if not remaining:
                return rows.results()
            kept = torch.tensor(remaining, device=state.mask.device)
            state = state.select(kept)
            seen = None if seen is None else seen[kept]


def choose(
    model,
    state: BatchState,
    candidates: Tensor,
    likelihood: Tensor,
    alpha: float,
    unfinished: Tensor,
) -> tuple[BatchState, Tensor]:
    """Reads the candidates [rows, k] and keeps one per row: (new state, its index among k [rows]).

    `likelihood` [rows, k]; `unfinished` [rows, 1] is 0 for rows that have ended, whose token is masked.
    """
    assert state.states is not None  # `read_prompts_with_states` computes them
    slots, k = state.mask.shape[1], candidates.shape[1]
    positions = state.mask.sum(1, keepdim=True).expand(-1, k)
    mask = candidate_mask(state.mask, k, model.dtype)
    with use_grouped_attention(model):
        states, logits_at = _forward_with_states(model, candidates, mask, positions, state.cache)
    choice = scores(likelihood, states, state.states[:, :slots], state.mask, alpha).argmax(-1)
    state.cache.keep_one(choice, k)
    state.states[:, slots] = states[torch.arange(len(choice), device=choice.device), choice]
    new_mask = torch.cat([state.mask, unfinished], 1)
    return BatchState(state.cache, new_mask, logits_at(choice), state.states), choice


def scores(likelihood: Tensor, states: Tensor, earlier: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """The paper's objective [rows, k] of candidates with `likelihood` [rows, k].

    `states` [rows, k, hidden] are the candidates', `earlier` [rows, slots, hidden] those of earlier
    tokens, all at length 1; slots where `mask` [rows, slots] is 0 are ignored.
    """
    similarity = torch.bmm(states, earlier.mT)
    similarity.masked_fill_(~mask.bool().unsqueeze(1), -torch.inf)
    return (1 - alpha) * likelihood - alpha * similarity.amax(-1).float()


def candidate_mask(mask: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [rows, 1, k, slots + k]: candidates see `mask` [rows, slots] and themselves."""
    least = torch.finfo(dtype).min
    past = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask.bool(), least)
    own = torch.full((k, k), least, dtype=dtype, device=mask.device).fill_diagonal_(0)
    parts = [past.unsqueeze(1).expand(-1, k, -1), own.expand(len(mask), -1, -1)]
    return torch.cat(parts, 2).unsqueeze(1)


def _forward_with_states(
    model, ids: Tensor, mask: Tensor, positions: Tensor, cache: KVCache, last_only: bool = False
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """One forward pass: (last hidden states at length 1 [rows, n, hidden], `logits_at`).

    `logits_at(index)` gives the logits [rows, V] at one index [rows] per row. With `last_only` the
    index must be the last one.
    """
    base = base_of(model)
    arguments = forward_arguments(ids, mask, positions, cache)
    rows = torch.arange(len(ids), device=ids.device)
    if (output := backbone_states(base, arguments)) is not None:
        hidden, head = output[0].to(ids.device), output[1]
        return F.normalize(hidden, dim=-1), lambda index: project(head, hidden[rows, index]).to(
            ids.device
        )
    output = base(**arguments, output_hidden_states=True, logits_to_keep=int(last_only))
    hidden, logits = output.hidden_states[-1].to(ids.device), output.logits.to(ids.device)
    column = (lambda index: 0) if last_only else (lambda index: index)
    return F.normalize(hidden, dim=-1), lambda index: logits[rows, column(index)]
