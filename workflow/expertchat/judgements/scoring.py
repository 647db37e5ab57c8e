"""Judging replies by a reward model: the reply with the higher score is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoModelForSequenceClassification

from expertchat.console import progress_bar
from expertchat.engine.training import Reader, load_model, load_tokenizer, why_whole
from expertchat.judgements.pairing import ReplyPair
from expertchat.records import read_json
from expertchat.rewards.artifact import METRICS, adapter_folders
from expertchat.rewards.encoding import encode_context
from expertchat.rewards.scoring import combine, score_contexts
from expertchat.settings.models import Load


def preferences_by_scores(
    pairs: Sequence[ReplyPair],
    model_folder: Path,
    load: Load,
    reward_model: Path,
    max_length: int,
    label: str,
) -> np.ndarray:
    """For each pair 1 if the first reply has the higher score, 0 if the second, 0.5 if they are equal.

    `reward_model` is an artifact of stage rewards on the model in `model_folder`. It reads at most
    `max_length` tokens, as in training. Each reply is scored by itself, so that its place in the pair
    cannot matter. `label` stands beside the progress bar.
    """
    texts: dict[str, dict[str, None]] = {}  # the different replies to each context
    contexts = {}
    for pair in pairs:
        contexts[pair.context.id] = pair.context
        texts.setdefault(pair.context.id, {}).update(dict.fromkeys(pair.texts))
    tokenizer = load_tokenizer(model_folder, load)
    rows = [
        encode_context(tokenizer, contexts[name].messages, list(own), max_length).rows
        for name, own in texts.items()
    ]
    adapters, pad = adapter_folders(reward_model), tokenizer.pad_token_id
    with progress_bar(len(adapters) * len(rows), label, "contexts") as progress:
        members = [
            _member_scores(model_folder, load, adapter, pad, rows, lambda tokens: progress.update(1))
            for adapter in adapters
        ]
    combined = combine(np.array(members), read_json(reward_model / METRICS)["spread_penalty"])
    names = [(name, text) for name, own in texts.items() for text in own]
    scores = dict(zip(names, combined.tolist(), strict=True))
    gaps = [scores[p.context.id, p.texts[0]] - scores[p.context.id, p.texts[1]] for p in pairs]
    return (np.sign(gaps) + 1) / 2


def _member_scores(
    model_folder: Path, load: Load, adapter: Path, pad: int, rows, on_tokens
) -> list[float]:
    """The scores of the replies of all contexts, by one reward model of an ensemble."""
    from peft import PeftModel

    base = load_model(model_folder, load, AutoModelForSequenceClassification, num_labels=1)
    base.config.pad_token_id = pad
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    scores = score_contexts(model, rows, Reader(pad, why_whole(model)), on_tokens)
    return [score for own in scores for score in own]
