"""Tiny models of a given architecture, for rehearsals: random weights, fitted to made-up sentences.

They are fitted for a few seconds, so that their replies have words and end. They know nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat import chat
from expertchat.demo.tokenizer import Marks, train_tokenizer
from expertchat.models.targets import TargetModules, check_targets
from expertchat.rehearsal.made_up import sentence
from expertchat.settings.models import Load

LENGTH = 4096  # context length, in tokens; these are shorter than those of a real tokenizer
VOCABULARY, SENTENCES = 640, 2000  # of the tokenizer
STEPS, ROWS, LEARNING_RATE = 60, 16, 5e-3
BEGINNINGS = ("", "", "Topic: ")  # of replies; the second is that of the prompt for topics

SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = {"num_key_value_heads": 2}  # grouped-query attention
PARTICULARS: Mapping[str, Mapping[str, Any]] = {  # by architecture, besides SIZES
    "llama": GROUPED,
    "mistral": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {**GROUPED, "head_dim": 16},
    "phi": {},
    "phi3": GROUPED,
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 8},
    "mpt": {"max_seq_len": LENGTH},
    "falcon": {},
    "bloom": {},
}


def make_shrunk_model(settings: Mapping[str, Any], targets: TargetModules, out: Path) -> None:
    """Writes a tiny model with its tokenizer to out/model, in the Hugging Face layout.

    Raises UserError if it does not have the layers in `targets`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from expertchat.engine.training import load_tokenizer

    architecture, folder = settings["architecture"], out / "model"
    draw = random.Random(settings["seed"])
    tokenizer = train_tokenizer(
        (sentence(draw) for _ in range(SENTENCES)), VOCABULARY, marks_of(settings), LENGTH
    )
    config = tiny_config(architecture)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    check_targets(targets, config, f"the shrunk {architecture}")
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    tokenizer = load_tokenizer(folder, Load())  # the architecture's own class may add tokens
    config.vocab_size = len(tokenizer)
    torch.manual_seed(settings["seed"])
    model = AutoModelForCausalLM.from_config(config)
    _fit(model, tokenizer, draw)
    model.save_pretrained(folder)


def tiny_config(architecture: str):
    """transformers' configuration of a tiny model; its vocabulary is the largest that it can have."""
    from transformers import AutoConfig

    sizes = {**SIZES, **PARTICULARS[architecture], "max_position_embeddings": LENGTH}
    return AutoConfig.for_model(architecture, **sizes, vocab_size=VOCABULARY, pad_token_id=None)


def marks_of(settings: Mapping[str, Any]) -> Marks:
    """The special tokens of a family: those that begin and end a text, and its chat template's."""
    begin, end, template = (settings[key] for key in ("begin_token", "end_token", "template"))
    written = []
    for pattern in chat.SPECIAL_TOKENS.values():
        written += [match[0] for match in re.finditer(pattern, template or "")]
    others = tuple(token for token in dict.fromkeys(written) if token not in (begin, end))
    return Marks(None, begin, end, others, template)


def _fit(model, tokenizer, draw: random.Random) -> None:
    """Trains the model on sentences, as replies where it has a chat template, each with its end."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 5) * (1 - step / STEPS)
        rows = [_example(tokenizer, draw) for _ in range(ROWS)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
        model(ids, attention_mask=(labels >= 0).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _example(tokenizer, draw: random.Random) -> list[int]:
    """The ids of one text that the model is fitted to."""
    reply = draw.choice(BEGINNINGS) + sentence(draw)
    if tokenizer.chat_template is None:
        before = tokenizer.encode(f"{sentence(draw)}\n")
    else:
        before = chat.encode(tokenizer, [{"role": "user", "content": sentence(draw)}])
    return [*before, *tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
