"""Log-probabilities of answers: what the texts share is read once, and the rest without padding.

How a model reads is tried once (`pick_way`): by attention of our own, by a mask where its attention is
its own as well, or in whole prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expertchat.engine.generate.cache import base_of, why_unshared
from expertchat.engine.generate.generation import forward, padded, taken
from expertchat.engine.score.forest import Forest, plant
from expertchat.engine.score.forest_attention import HeldNodes, PassCache, Unlike, attending, make_plan
from expertchat.engine.score.tokenized import AnswerSequence

Way = Literal["forest", "mask", "whole"]

LOGITS_AT_ONCE = 2**22  # 32-bit logits that are worked on together: 16 MiB
TRIED = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8], [1, 2, 3, 7, 4, 4])  # token ids of a trial
CLOSE = {torch.float32: 1e-3}  # of the largest logit; a trial's results may differ by this
CLOSE_IN_HALF = 0.1


def score_nodes(
    model, forest: Forest, first: int, end: int, held: HeldNodes, way: Way
) -> tuple[np.ndarray, HeldNodes]:
    """Reads the nodes from `first` up to `end`.

    Returns the log-probabilities [lookups of these nodes] in 64 bits, and what is to be held for the
    nodes that follow. `held`: what the call before returned.
    """
    has_plain_head(base_of(model))  # tried before attention is changed
    plan = make_plan(forest, first, end, list(held), model.device)
    layers = model.config.get_text_config().num_hidden_layers
    cache = PassCache(plan, held, layers, joined=way == "mask")
    begin, stop = np.searchsorted(forest.node, [first, end])
    sizes = np.cumsum([0, *(len(node.ids) for node in forest.nodes[first:end])])
    asked = sizes[forest.node[begin:stop] - first] + forest.offset[begin:stop]
    places, rows = np.unique(asked, return_inverse=True)
    wanted = torch.from_numpy(places).to(model.device)
    if way == "mask":
        sees = plan.mask(held)[None, None].to(model.device)
        mask = torch.zeros(sees.shape, dtype=model.dtype, device=model.device)
        mask.masked_fill_(~sees, torch.finfo(model.dtype).min)
        states, head = _states(model, plan, cache, mask, wanted)
    else:
        with attending(model, cache):
            states, head = _states(model, plan, cache, None, wanted)
        if cache.attended != layers:
            raise Unlike("attention is not transformers' interface")
    found = _lookups(states, head, rows, forest.token[begin:stop])
    return found, cache.kept(end, forest)


def _states(model, plan, cache, mask, wanted: Tensor):
    """(hidden states [wanted, hidden], head) where the head is a plain projection, else logits."""
    arguments = {
        "input_ids": plan.ids,
        "attention_mask": mask,
        "position_ids": plan.positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    base = base_of(model)
    if has_plain_head(base):
        trunk = getattr(base, base.base_model_prefix)
        states = trunk(**arguments).last_hidden_state[0]
        return states[wanted.to(states.device)], base.get_output_embeddings()
    if "logits_to_keep" in taken(type(base)):
        return model(**arguments, logits_to_keep=wanted).logits[0], None
    return model(**arguments).logits[0, wanted], None


def _lookups(states: Tensor, head, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[lookups] log-probability of each token after each row of `states` (logits where no head)."""
    found = np.zeros(len(rows))
    order = np.argsort(rows, kind="stable")
    width = head.weight.shape[0] if head is not None else states.shape[1]
    step = max(1, LOGITS_AT_ONCE // width)
    for first in range(0, len(states), step):
        part = states[first : first + step]
        logits = (part if head is None else head(part)).float()
        begin, end = np.searchsorted(rows[order], [first, first + step])
        here = order[begin:end]
        row, token = (torch.from_numpy(x).to(logits.device) for x in (rows[here] - first, tokens[here]))
        found[here] = (logits[row, token] - logits.logsumexp(-1)[row]).double().cpu().numpy()
    return found


def score_whole(model, sequences: Sequence[AnswerSequence], pad: int) -> list[float]:
    """The log-probability of each sequence's answer by whole prompts."""
    unique = list({sequence.ids.tobytes(): sequence.ids for sequence in sequences}.values())
    place = {ids.tobytes(): row for row, ids in enumerate(unique)}
    ids, mask = padded([row.tolist() for row in unique], pad, model.device, "left")
    keep = max(len(sequence.answer) for sequence in sequences)
    logits = forward(model, ids, mask, None, logits_to_keep=keep).logits
    found = []
    for sequence in sequences:
        length = len(sequence.answer)
        part = logits[place[sequence.ids.tobytes()], -length:].float()
        token = torch.tensor(list(sequence.answer), device=part.device)
        chosen = part[torch.arange(length), token] - part.logsumexp(-1)
        found.append(float(chosen.double().sum()))
    return found


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


@torch.inference_mode()
def pick_way(model) -> tuple[Way, str | None]:
    """(how answers are asked of the model, why not in the quickest way), by a trial on a few tokens."""
    if (why := why_unshared(model)) is not None:
        return "whole", why
    attention = model.config.get_text_config()._attn_implementation
    if attention == "flash_attention_2":
        return "whole", f"{attention} is set"
    first = why_not(model, "forest")
    if first is None:
        return "forest", None
    second = why_not(model, "mask")
    return ("mask", first) if second is None else ("whole", f"{first}; by a mask, {second}")


def why_not(model, way: Way) -> str | None:
    """Why the way does not give what whole prompts give, in two passes over a small forest; None where
    it does."""
    rows = [np.array(ids, np.int32) for ids in TRIED]
    sequences = [AnswerSequence(ids, [1], (0, 0, k)) for k, ids in enumerate(rows)]
    forest = plant(sequences, 2, least_saved=1)
    held, found = {}, []
    half = len(forest.nodes) // 2
    try:
        for first, end in ((0, half), (half, len(forest.nodes))):
            values, held = score_nodes(model, forest, first, end, held, way)
            found += values.tolist()
    except torch.OutOfMemoryError:
        raise
    except (Unlike, TypeError, ValueError, RuntimeError, AttributeError) as error:
        return f"a trial says {type(error).__name__}: {(str(error) or 'nothing').splitlines()[0]}"
    expected = score_whole(model, sequences, 0)
    coarse = getattr(model, "is_quantized", False)  # int8 rounds by what is read together
    close = CLOSE_IN_HALF if coarse else CLOSE.get(model.dtype, CLOSE_IN_HALF)
    by_reading = dict(zip(forest.sequence.tolist(), found, strict=True))
    near = (abs(by_reading[k] - each) <= close * max(1, abs(each)) for k, each in enumerate(expected))
    return None if all(near) else "a trial gives other results than whole prompts"
