"""The engine's interface for stages that train weights (rewards and policies).

Training uses the same loading, padding and drawing as inference, so that policies are trained on
exactly the tokens that were drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig

from expertchat.engine import parallel, sharding
from expertchat.engine.activations import planned_texts
from expertchat.engine.adapters import add_adapter
from expertchat.engine.finite import require_finite_weights
from expertchat.engine.generate.generation import complete_prompts, padded, position_ids
from expertchat.engine.generate.sampling import token_logprobs, uniforms
from expertchat.engine.generate.stopping import Completion, before_stop, end_token_ids
from expertchat.engine.loading import context_tokens, load_model, load_tokenizer, make_skeleton
from expertchat.engine.memory import block_bytes
from expertchat.engine.placement import gpu_free_bytes
from expertchat.engine.rotation import long_rope_limit
from expertchat.engine.shared_prompts import Reader, text_states, why_whole
from expertchat.engine.trainers import (
    ShardedCheckpoints,
    TokenProgress,
    common_arguments,
    run_to_the_end,
)
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.target_modules import find_target_modules

__all__ = [
    "Completion",
    "Reader",
    "ShardedCheckpoints",
    "TokenProgress",
    "add_adapter",
    "before_stop",
    "check_lengths",
    "common_arguments",
    "draw_completions",
    "end_token_ids",
    "load_model",
    "load_tokenizer",
    "lora_config",
    "make_skeleton",
    "padded",
    "parallel",
    "planned_texts",
    "position_ids",
    "processes_per_node",
    "require_finite_weights",
    "run_to_the_end",
    "save_adapter",
    "sharding",
    "text_states",
    "token_logprobs",
    "why_whole",
    "without_dropout",
]


def check_lengths(folder: Path, tokens: int) -> None:
    """Raises UserError if the model in `folder` cannot be trained on sequences of `tokens` tokens.

    Training mixes lengths in a batch, and with LongRoPE one long row would change the rotation of all
    rows. So all must be short.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    context, limit = context_tokens(config), long_rope_limit(config)
    if context is not None and tokens > context:
        reason = f"the model reads at most {context}"
    elif limit is not None and tokens > limit:
        reason = (
            f"after {limit} the model changes its rotary factors (LongRoPE), and training cannot mix "
            "shorter and longer sequences"
        )
    else:
        return
    raise UserError(
        f"{folder}: a training sequence has up to {tokens} tokens, but {reason}: lower dialogues.turns, "
        "dialogues.max_tokens or max_new_tokens"
    )


LARGEST_SHARE = 0.6  # of a GPU's memory that the weights of a copy take; the rest is for activations
FULL_BYTES = 16  # per weight that is trained: in float32, with gradient and two moments of Adam


def processes_per_node(folder: Path, load: Load, full: bool, nodes: int) -> int:
    """The number of processes that can train the model in `folder` together on each node's GPUs.

    That is one per GPU if each has room for its copy, else one. `full`: all weights are trained, and not
    an adapter; then each process has a part of the model (`sharding`). The GPUs are those of this node;
    they are looked at in a process of its own, as looking takes memory on each.
    """
    gpus = torch.cuda.device_count()
    if gpus < 2:
        return 1
    skeleton = make_skeleton(folder, load)
    need = sum(block_bytes(skeleton, load).values())
    if full:
        need = FULL_BYTES * sum(p.numel() for p in skeleton.parameters()) // (gpus * nodes)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        room = min(pool.submit(gpu_free_bytes).result())
    return gpus if need <= LARGEST_SHARE * room else 1


def without_dropout(model) -> None:
    """Sets every dropout probability of the model to 0, also those that modules keep as numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def lora_config(lora: LoRA, model, key: str, source: str, **kwargs):
    """peft's LoraConfig of these settings for `model`, which is called `source`; `kwargs` are passed on.

    Raises UserError, with `key` as the name of the settings, if the model does not have the layers that
    they name, or has fewer layers than wanted.
    """
    from peft import LoraConfig

    layers = model.config.get_text_config().num_hidden_layers
    if lora.layers is not None and lora.layers > layers:
        raise UserError(f"{key}.layers: {lora.layers}; this model has {layers} layers: use at most that")
    last = lora.layers and list(range(layers - lora.layers, layers))
    return LoraConfig(
        layers_to_transform=last,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=find_target_modules(lora.target_modules, f"{key}.target_modules", model, source),
        **kwargs,
    )


def save_adapter(model, folder: Path) -> None:
    """Writes the adapter "default" of a model of peft's to a new folder, in peft's layout.

    peft keeps the names of layers in sets, whose order changes from process to process; here they are
    sorted, so that the same adapter gives the same bytes.
    """
    model.save_pretrained(folder, selected_adapters=["default"], safe_serialization=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()  # what is drawn in inference mode could not be trained on
def draw_completions(
    model,
    tokenizer,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    decoding: Decoding,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Completion]:
    """One completion of each prompt (token ids), drawn with its seed, `batch_size` rows at a time.

    `model` may be wrapped by peft; its active adapters are applied. `on_batch` gets the number of rows
    after each batch.
    """
    ends = end_token_ids(model, tokenizer)
    uniform = np.stack([uniforms(seed, decoding.max_new_tokens) for seed in seeds])
    completions: list[Completion] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        drawn = complete_prompts(model, prompts[part], uniform[part], decoding, tokenizer, ends)
        completions += drawn
        if on_batch is not None:
            on_batch(len(drawn))
    return completions
