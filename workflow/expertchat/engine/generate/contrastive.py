"""Contrastive search: of the likely tokens, the one whose state is least like those before it.

After Su et al. 2022, "A Contrastive Framework for Neural Text Generation": of the k likeliest tokens v
the one with the greatest (1 - alpha) p(v | x) - alpha max_j cos(h_v, h_xj), where h are the last hidden
states and j runs over all tokens of the prompt and of the reply. A row's candidates are read side by
side in one forward pass, each seeing what came before and itself; the chosen one stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from expertchat.engine.generate.cache import Held, KVCache, base_of
from expertchat.engine.generate.generation import (
    Continuations,
    Read,
    expand,
    held_lengths,
    position_ids,
    resume,
    seen_tokens,
)
from expertchat.engine.generate.grouped_attention import few_new_tokens
from expertchat.engine.generate.sampling import penalise
from expertchat.engine.generate.stopping import Completion, Endings
from expertchat.engine.score.scoring import has_plain_head
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding

TOP_K = 4  # candidates where the settings name no number


def check_contrastive(model, share: bool) -> None:
    """Raises UserError where the model cannot read candidates side by side.

    `share`: whether the model's cache can be shared.
    """
    if not share:
        kind = model.config.get_text_config().model_type
        raise UserError(
            f"decoding.strategy contrastive: the attention of a {kind} model cannot read candidates "
            "side by side; set it to sampling or greedy for this model"
        )
    if model.config.get_text_config()._attn_implementation == "flash_attention_2":
        raise UserError(
            "decoding.strategy contrastive: flash_attention_2 takes no mask for candidates; "
            "set the model's load.attention to sdpa"
        )


def read_states(
    model,
    prompts: Sequence[list[int]],
    pad: int,
    held: Sequence[Held | None],
    decoding: Decoding,
    endings: Endings,
) -> Read:
    """Reads prompts, with their states; of each, what `held` has of its beginning is taken from there.

    What was held without states is read anew. There is room for what `decoding` may add.
    """
    room = endings.last + (decoding.top_k or TOP_K)
    held = [h if h is not None and h.states is not None else None for h in held]
    ids, mask, cache = resume(model, prompts, pad, held, room, True)
    states, logits_at = _pass(model, ids, mask, position_ids(mask)[:, -ids.shape[1] :], cache, True)
    old = mask.shape[1] - ids.shape[1]
    buffer = states.new_zeros(len(mask), mask.shape[1] + room, states.shape[2])
    buffer[:, old : mask.shape[1]] = states
    for row, (h, length) in enumerate(zip(held, held_lengths(prompts, held), strict=True)):
        if length:
            buffer[row, old - length : old] = h.states[:length]
    last = torch.full((len(mask),), ids.shape[1] - 1, device=mask.device)
    return Read(cache, mask, logits_at(last), buffer)


def continue_contrastive(
    model,
    read: Read,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    endings: Endings,
    hold: Sequence[bool] = (),
) -> tuple[list[Completion], list[Held | None]]:
    """Continues a batch that `read_states` read, until each row has ended.

    `hold`: rows whose cache is wanted back. Returns completions and what is held, both in the order of
    the rows.
    """
    k = min(decoding.top_k or TOP_K, read.logits.shape[-1])
    penalty = decoding.repetition_penalty
    rows = Continuations(prompts, endings, hold)
    seen = seen_tokens(prompts, read.logits) if penalty != 1 else None
    while True:
        logits = read.logits if seen is None else penalise(read.logits, seen, penalty)
        likelihood, candidates = logits.float().softmax(-1).topk(k, dim=-1)
        alive = rows.alive(read.mask.device)
        read, choice = choose(model, read, candidates, likelihood, decoding.penalty_alpha, alive)
        tokens = candidates.gather(1, choice.unsqueeze(1))
        if seen is not None:
            seen.scatter_(1, tokens, True)
        rows.add(tokens.squeeze(1))
        going = rows.leave(read)
        if going is not None:
            if not going:
                return rows.done, rows.held
            keep = torch.tensor(going, device=read.mask.device)
            read = expand(read, keep)
            seen = None if seen is None else seen[keep]


def choose(
    model, read: Read, candidates: Tensor, likelihood: Tensor, alpha: float, alive: Tensor
) -> tuple[Read, Tensor]:
    """Reads candidates [rows, k], and keeps one a row: (what is read now, its place [rows]).

    `likelihood` [rows, k]; `alive` [rows, 1] is 0 for rows whose token is not to count.
    """
    slots, k = read.mask.shape[1], candidates.shape[1]
    positions = read.mask.sum(1, keepdim=True).expand(-1, k)
    mask = candidate_mask(read.mask, k, model.dtype)
    with few_new_tokens(model):
        states, logits_at = _pass(model, candidates, mask, positions, read.cache)
    choice = scores(likelihood, states, read.states[:, :slots], read.mask, alpha).argmax(-1)
    read.cache.keep(choice, k)
    read.states[:, slots] = states[torch.arange(len(choice), device=choice.device), choice]
    return Read(read.cache, torch.cat([read.mask, alive], 1), logits_at(choice), read.states), choice


def scores(likelihood: Tensor, states: Tensor, before: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """The paper's objective [rows, k] of candidates with `likelihood` [rows, k].

    `states` [rows, k, hidden] are theirs, `before` [rows, slots, hidden] those of earlier tokens, all
    at length 1; slots where `mask` [rows, slots] is 0 do not count.
    """
    likeness = torch.bmm(states, before.mT)
    likeness.masked_fill_(~mask.bool().unsqueeze(1), -torch.inf)
    return (1 - alpha) * likelihood - alpha * likeness.amax(-1).float()


def candidate_mask(mask: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """What attention adds [rows, 1, k, slots + k]: each of k sees `mask` [rows, slots] and itself."""
    least = torch.finfo(dtype).min
    past = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask.bool(), least)
    own = torch.full((k, k), least, dtype=dtype, device=mask.device).fill_diagonal_(0)
    parts = [past.unsqueeze(1).expand(-1, k, -1), own.expand(len(mask), -1, -1)]
    return torch.cat(parts, 2).unsqueeze(1)


def _pass(
    model, ids: Tensor, mask: Tensor, positions: Tensor, cache: KVCache, last_only: bool = False
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """One forward pass: the last hidden states at length 1 [rows, n, hidden], and what gives the
    logits [rows, V] at one place [rows] in each row; the last place where `last_only`."""
    arguments = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    base = base_of(model)
    rows = torch.arange(len(ids), device=ids.device)
    if has_plain_head(base):
        hidden = getattr(base, base.base_model_prefix)(**arguments).last_hidden_state.to(ids.device)
        head = base.get_output_embeddings()
        return F.normalize(hidden, dim=-1), lambda place: head(hidden[rows, place]).to(ids.device)
    output = base(**arguments, output_hidden_states=True, logits_to_keep=int(last_only))
    hidden, logits = output.hidden_states[-1].to(ids.device), output.logits.to(ids.device)
    place_of = (lambda place: 0) if last_only else (lambda place: place)
    return F.normalize(hidden, dim=-1), lambda place: logits[rows, place_of(place)]
