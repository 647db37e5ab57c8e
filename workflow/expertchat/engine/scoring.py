"""Log-probabilities of answers after prompts that share their beginnings.

Each beginning is read once. What follows it is packed into lanes: several suffixes stand side by side
in one row, each seeing the shared beginning and itself only, at the positions that it would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from expertchat.engine.cache import base_of
from expertchat.engine.generation import forward, padded, read_prompts
from expertchat.probes import Probe, SuffixRow, shared_length, suffix_rows

LANE_TOKENS = 256  # suffixes are packed up to this length; longer ones have a lane alone


@dataclass
class Lane:
    """A row of the batch: suffixes of one group, side by side."""

    group: int
    suffixes: list[SuffixRow] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(suffix.ids) for suffix in self.suffixes)


def lanes_of(group: int, probes: Sequence[Probe], shared: int) -> list[Lane]:
    """The group's suffixes, packed."""
    lanes: list[Lane] = []
    for suffix in suffix_rows(probes, shared):
        if not lanes or lanes[-1].tokens + len(suffix.ids) > LANE_TOKENS:
            lanes.append(Lane(group))
        lanes[-1].suffixes.append(suffix)
    return lanes


def lane_mask(lanes: Sequence[Lane], length: int) -> tuple[Tensor, Tensor]:
    """(sees [lanes, length, length] bool, offsets [lanes, length]) of the packed tokens.

    A token sees those of its own suffix up to itself; its offset counts from the suffix's start.
    """
    block = torch.full((len(lanes), length), -1)
    offset = torch.zeros((len(lanes), length), dtype=torch.long)
    for row, lane in enumerate(lanes):
        start = 0
        for number, suffix in enumerate(lane.suffixes):
            end = start + len(suffix.ids)
            block[row, start:end] = number
            offset[row, start:end] = torch.arange(end - start)
            start = end
    same = block.unsqueeze(2) == block.unsqueeze(1)
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    return same & earlier, offset


def score_lanes(
    model,
    starts: Sequence[list[int]],
    lanes: Sequence[Lane],
    probes: Sequence[Sequence[Probe]],
    pad: int,
) -> list[list[np.ndarray]]:
    """For each lane, for each of its suffixes, the log-probabilities of the suffix's answers.

    `starts` and `probes` belong to the groups that the lanes name.
    """
    device = model.device
    used = sorted({lane.group for lane in lanes})
    read = read_prompts(model, [starts[g] for g in used], pad, [None] * len(used), 0, True)
    rows = torch.tensor([used.index(lane.group) for lane in lanes], device=device)
    read.cache.select(rows)
    before = read.mask[rows]
    ids, _ = padded([[t for s in lane.suffixes for t in s.ids] for lane in lanes], pad, device, "right")
    sees, offset = (t.to(device) for t in lane_mask(lanes, ids.shape[1]))
    past = before.bool().unsqueeze(1).expand(-1, ids.shape[1], -1)
    allowed = torch.cat([past, sees], 2).unsqueeze(1)
    mask = torch.zeros(allowed.shape, dtype=model.dtype, device=device)
    mask.masked_fill_(~allowed, torch.finfo(model.dtype).min)
    positions = before.sum(1, keepdim=True) + offset
    hidden_or_logits, head = _outputs(model, ids, mask, positions, read.cache)
    found = []
    for row, lane in enumerate(lanes):
        start, scored = 0, []
        for suffix in lane.suffixes:
            end = start + len(suffix.ids)
            part = hidden_or_logits[row, start:end]
            scored.append(_answer_sums(part, head, suffix, probes[lane.group][suffix.probe]))
            start = end
        found.append(scored)
    return found


def score_whole(model, rows: Sequence[tuple[SuffixRow, Probe]], pad: int) -> list[np.ndarray]:
    """Log-probabilities of each row's answers by whole prompts, for models whose caches cannot be
    shared: a row's ids are its probe's whole prompt, and an answer but for its last token."""
    ids, mask = padded([row.ids for row, _ in rows], pad, model.device, "left")
    keep = max(len(probe.answers[row.answers[0]]) for row, probe in rows)
    logits = forward(model, ids, mask, None, logits_to_keep=keep).logits
    found = []
    for place, (row, probe) in enumerate(rows):
        answer = probe.answers[row.answers[0]]
        end = SuffixRow(row.probe, row.answers, answer)  # what precedes each of its tokens ends the row
        found.append(_answer_sums(logits[place, -len(answer) :], None, end, probe))
    return found


def _outputs(model, ids, mask, positions, cache):
    """(hidden states, head) where the head is a plain projection, so that only the rows that matter
    are projected; else (logits, None)."""
    arguments = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    base = base_of(model)
    if not has_plain_head(base):
        return model(**arguments).logits, None
    trunk = getattr(base, base.base_model_prefix)
    return trunk(**arguments).last_hidden_state, base.get_output_embeddings()


def has_plain_head(base) -> bool:
    """Whether logits are the output embedding's projection of the last hidden states, nothing else.

    Tried once a model, on two tokens.
    """
    known = getattr(base, "_expertchat_plain_head", None)
    if known is None:
        trunk, head = getattr(base, base.base_model_prefix, None), base.get_output_embeddings()
        known = trunk is not None and trunk is not base and head is not None
        if known:
            ids = torch.tensor([[0, 1]], device=base.device)
            logits = base(input_ids=ids, use_cache=False).logits
            projected = head(trunk(input_ids=ids, use_cache=False).last_hidden_state)
            known = bool(torch.allclose(logits.float(), projected.float().to(logits.device), atol=1e-4))
        base._expertchat_plain_head = known
    return known


def _answer_sums(part: Tensor, head, suffix: SuffixRow, probe: Probe) -> np.ndarray:
    """Log-probability of each of the suffix's answers from its states or logits [tokens, .]."""
    answers = [probe.answers[k] for k in suffix.answers]
    length = len(answers[0])  # answers that share a row are single tokens
    states = part[len(suffix.ids) - length : len(suffix.ids)]
    logits = states if head is None else head(states)
    logprobs = logits.float().log_softmax(-1)
    if length > 1:
        tokens = torch.tensor(answers[0], device=logprobs.device).unsqueeze(-1)
        return logprobs.gather(-1, tokens).sum().reshape(1).cpu().numpy()
    return logprobs[-1, [answer[0] for answer in answers]].cpu().numpy()


def prepare(groups: Sequence[Sequence[Probe]]) -> tuple[list[list[int]], list[Lane]]:
    """(shared start of each group, all lanes).

    Those of long starts come first, so that what memory cannot hold shows at once.
    """
    for group in groups:
        if shared_length(group) < 1:
            raise ValueError("the prompts of a group must begin with the same token")
    shared = [shared_length(group) for group in groups]
    starts = [list(group[0].prompt[:n]) for group, n in zip(groups, shared, strict=True)]
    order = sorted(range(len(groups)), key=lambda g: -len(starts[g]))
    return starts, [lane for g in order for lane in lanes_of(g, groups[g], shared[g])]
