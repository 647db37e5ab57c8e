"""Log-probabilities of answers: shared tokens are computed once, and without padding.

`pick_method` tests on a few tokens how a model can be run: with our own forest attention, with a mask
if the model has an attention implementation of its own, or else on complete prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expertchat.engine.backbone import (
    backbone_states,
    base_of,
    forward_arguments,
    forward_parameters,
    has_plain_head,
    project,
)
from expertchat.engine.generate.cache import why_not_reusable
from expertchat.engine.generate.generation import forward_pass, padded
from expertchat.engine.score.forest import Forest, build_forest
from expertchat.engine.score.forest_attention import (
    CachedNodes,
    PassCache,
    UnsupportedAttention,
    plan_pass,
    use_forest_attention,
)
from expertchat.engine.score.tokenized import AnswerSequence

Method = Literal["forest", "mask", "whole"]
"""How answers are scored. "forest": passes over forest nodes with `forest_attention`; "mask": the same
passes with the model's own attention and a mask; "whole": batches of complete, padded prompts."""

MAX_LOGITS = 2**22  # 32-bit logits that are computed at once: 16 MiB
TRIAL_SEQUENCES = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8], [1, 2, 3, 7, 4, 4])  # token ids of a trial
TOLERANCE = {torch.float32: 1e-3}  # largest difference in a trial, in nats, relative above 1 nat
HALF_PRECISION_TOLERANCE = 0.1


def score_nodes(
    model, forest: Forest, first: int, end: int, cached: CachedNodes, method: Method
) -> tuple[np.ndarray, CachedNodes]:
    """One pass: reads the nodes from number `first` up to `end` (exclusive).

    Returns the log-probabilities of these nodes' lookups in 64 bits, and the cached nodes for the next
    pass. `cached`: those that the previous pass returned.
    """
    has_plain_head(base_of(model))  # its result is needed below, but its test needs normal attention
    plan = plan_pass(forest, first, end, list(cached), model.device)
    layers = model.config.get_text_config().num_hidden_layers
    cache = PassCache(plan, cached, layers, joined=method == "mask")
    begin, stop = np.searchsorted(forest.node, [first, end])
    starts = np.cumsum([0, *(len(node.ids) for node in forest.nodes[first:end])])
    positions = starts[forest.node[begin:stop] - first] + forest.offset[begin:stop]
    unique, rows = np.unique(positions, return_inverse=True)
    wanted = torch.from_numpy(unique).to(model.device)
    if method == "mask":
        visible = plan.mask(cached)[None, None].to(model.device)
        mask = torch.zeros(visible.shape, dtype=model.dtype, device=model.device)
        mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
        states, head = _states_at(model, plan, cache, mask, wanted)
    else:
        with use_forest_attention(model, cache):
            states, head = _states_at(model, plan, cache, None, wanted)
        if cache.attended != layers:
            raise UnsupportedAttention("its attention does not use transformers' attention interface")
    logprobs = _lookup_logprobs(states, head, rows, forest.token[begin:stop])
    return logprobs, cache.nodes_after(end, forest)


def _states_at(model, plan, cache, mask, wanted: Tensor):
    """Runs the model: (hidden states [wanted, hidden], head), or (logits [wanted, V], None).

    `wanted`: the pass's tokens after which probabilities are needed.
    """
    arguments = forward_arguments(plan.ids, mask, plan.positions, cache)
    base = base_of(model)
    if (output := backbone_states(base, arguments)) is not None:
        states, head = output
        return states[0][wanted.to(states.device)], head
    if "logits_to_keep" in forward_parameters(base):
        return model(**arguments, logits_to_keep=wanted).logits[0], None
    return model(**arguments).logits[0, wanted], None


def _lookup_logprobs(states: Tensor, head, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[lookups]: log-probability of each of `tokens` at each of `rows` of `states`.

    `states` are hidden states, or logits if `head` is None.
    """
    logprobs = np.zeros(len(rows))
    order = np.argsort(rows, kind="stable")
    vocabulary = head.weight.shape[0] if head is not None else states.shape[1]
    step = max(1, MAX_LOGITS // vocabulary)
    for first in range(0, len(states), step):
        part = states[first : first + step]
        logits = (part if head is None else project(head, part)).float()
        begin, end = np.searchsorted(rows[order], [first, first + step])
        here = order[begin:end]
        row, token = (torch.from_numpy(x).to(logits.device) for x in (rows[here] - first, tokens[here]))
        chosen = logits[row, token] - logits.logsumexp(-1)[row]
        logprobs[here] = chosen.double().cpu().numpy()
    return logprobs


def score_whole(model, sequences: Sequence[AnswerSequence], pad: int) -> list[float]:
    """The log-probability of each sequence's answer, from one batch of complete, padded prompts."""
    unique = list({sequence.ids.tobytes(): sequence.ids for sequence in sequences}.values())
    row_of = {ids.tobytes(): row for row, ids in enumerate(unique)}
    ids, mask = padded([row.tolist() for row in unique], pad, model.device, "left")
    keep = max(len(sequence.answer) for sequence in sequences)
    logits = forward_pass(model, ids, mask, None, logits_to_keep=keep).logits
    logprobs = []
    for sequence in sequences:
        length = len(sequence.answer)
        part = logits[row_of[sequence.ids.tobytes()], -length:].float()
        token = torch.tensor(list(sequence.answer), device=part.device)
        chosen = part[torch.arange(length), token] - part.logsumexp(-1)
        logprobs.append(float(chosen.double().sum()))
    return logprobs


@torch.inference_mode()
def pick_method(model) -> tuple[Method, str | None]:
    """(the fastest method that works for the model, why not "forest", if so), by a trial run."""
    if (reason := why_not_reusable(model)) is not None:
        return "whole", reason
    attention = model.config.get_text_config()._attn_implementation
    if attention == "flash_attention_2":
        return "whole", f"the model uses {attention}"
    not_forest = trial_failure(model, "forest")
    if not_forest is None:
        return "forest", None
    not_mask = trial_failure(model, "mask")
    if not_mask is None:
        return "mask", not_forest
    return "whole", f"{not_forest}; with a mask, {not_mask}"


def trial_failure(model, method: Method) -> str | None:
    """Why the method does not give the results of complete prompts; None if it does.

    The trial reads a small forest in two passes.
    """
    rows = [np.array(ids, np.int32) for ids in TRIAL_SEQUENCES]
    sequences = [AnswerSequence(ids, [1], (0, 0, k)) for k, ids in enumerate(rows)]
    forest = build_forest(sequences, 2, min_saved=1)
    cached: CachedNodes = {}
    logprobs: list[float] = []
    half = len(forest.nodes) // 2
    try:
        for first, end in ((0, half), (half, len(forest.nodes))):
            values, cached = score_nodes(model, forest, first, end, cached, method)
            logprobs += values.tolist()
    except torch.OutOfMemoryError:
        raise
    except (UnsupportedAttention, TypeError, ValueError, RuntimeError, AttributeError) as error:
        message = (str(error) or "no message").splitlines()[0]
        return f"a trial run raised {type(error).__name__}: {message}"
    expected = score_whole(model, sequences, 0)
    quantized = getattr(model, "is_quantized", False)  # int8 rounding depends on the batch
    tolerance = TOLERANCE.get(model.dtype, HALF_PRECISION_TOLERANCE)
    tolerance = HALF_PRECISION_TOLERANCE if quantized else tolerance
    by_sequence = dict(zip(forest.sequence.tolist(), logprobs, strict=True))
    close = all(
        abs(by_sequence[k] - value) <= tolerance * max(1, abs(value)) for k, value in enumerate(expected)
    )
    return None if close else "a trial run gave other results than complete prompts"
