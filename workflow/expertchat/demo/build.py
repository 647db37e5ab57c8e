"""Builds a demo model from scratch: trains its tokenizer and its weights on the demo's corpus."""

from __future__ import annotations

import ctypes
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from expertchat.console import progress_bar, rate
from expertchat.demo.corpus import Mix, Plain, Ratings, documents
from expertchat.demo.experts import use_dense_experts
from expertchat.demo.losses import CrossEntropy
from expertchat.demo.optimizer import has_bfloat16, make_optimizers, schedule
from expertchat.demo.packing import Batch, Encoder, Weights, batches
from expertchat.demo.tokenizer import train_tokenizer
from expertchat.demo.world import World, build_world
from expertchat.errors import UserError

ARCHITECTURES = ("llama", "mixtral")


def build_model(
    out: Path,
    *,
    architecture: str,
    knows: tuple[str, ...],
    seed: int,
    prompts: dict[str, str],
    world_seed: int = 0,
    steps: int = 800,
    rows: int = 6,
    length: int = 320,
    vocabulary: int = 1920,
    hidden: int = 128,
    layers: int = 3,
    heads: int = 2,
    intermediate: int = 512,
    experts: int = 4,
    matrix_rate: float = 0.015,
    other_rate: float = 0.005,
    warmup: int = 20,
    decay: float = 0.5,
    mix: Mix | None = None,
    weights: Weights | None = None,
    tokenizer_documents: int = 1500,
) -> dict[str, float]:
    """Trains a chat model on the demo's corpus and saves it to `out` in the Hugging Face layout.

    `knows` names the subjects that the model knows well. `prompts` are templates by name, as returned
    by `prompts.read_prompts`. One step trains on `rows` rows of `length` tokens. `intermediate` is the
    width of the feed-forward layer; Mixtral divides it among its `experts`, and each token uses two.

    Returns the number of parameters and tokens, seconds, tokens_per_second, and the mean losses in nats
    of the last tenth of the steps. Raises ValueError for an unknown architecture or subject.
    """
    began = time.perf_counter()
    world = build_world(world_seed)
    _check(architecture, knows, world)
    torch.manual_seed(seed)
    reuse_freed_memory()

    def corpus(name: str) -> Iterator:
        return documents(world, knows=knows, seed=f"{seed}-{name}", prompts=prompts, mix=mix)

    texts = (
        text
        for document in islice(corpus("words"), tokenizer_documents)
        for text in _texts(document, prompts)
    )
    tokenizer = train_tokenizer(texts, vocabulary)
    model = new_model(
        architecture,
        tokenizer,
        hidden=hidden,
        layers=layers,
        heads=heads,
        intermediate=intermediate,
        experts=experts,
    )
    encoder = Encoder(tokenizer, prompts, world, weights or Weights())
    packed = batches(map(encoder, corpus("train")), rows=rows, length=length, pad=tokenizer.pad_token_id)
    metrics = train(
        model,
        islice(packed, steps),
        make_optimizers(model, matrix_rate=matrix_rate, other_rate=other_rate),
        steps=steps,
        warmup=warmup,
        decay=decay,
        label=f"building {architecture}",
    )
    save(model, tokenizer, out)
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    metrics["seconds"] = time.perf_counter() - began
    return metrics


def reuse_freed_memory() -> None:
    """Makes the C library reuse freed memory in this process, on Linux.

    Otherwise the system maps and clears memory for the large tensors of every step, which takes a fifth
    of the time.
    """
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, (1 << 31) - 1)
        mallopt(m_top_pad, 1 << 28)


def _check(architecture: str, knows: tuple[str, ...], world: World) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    unknown = sorted(set(knows) - set(world.names))
    if unknown:
        raise ValueError(f"unknown subjects {', '.join(unknown)}; known: {', '.join(world.names)}")


def _texts(document, prompts: dict[str, str]) -> Iterator[str]:
    """The texts of a document that the tokenizer is trained on."""
    match document:
        case Plain(text=text):
            yield text
        case Ratings(questions=questions):
            yield from (document.prompt(prompts["rating"], question) for question in questions[-2:])
        case _:
            yield from (message["content"] for message in document.messages)


def new_model(
    architecture: str,
    tokenizer,
    *,
    hidden: int,
    layers: int,
    heads: int,
    intermediate: int,
    experts: int,
):
    """An untrained causal language model for `tokenizer`."""
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
    )

    shared = dict(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    if architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=intermediate, **shared))
    else:
        config = MixtralConfig(
            intermediate_size=intermediate // experts,
            num_local_experts=experts,
            num_experts_per_tok=2,
            sliding_window=None,
            **shared,
        )
        model = MixtralForCausalLM(config)
        use_dense_experts(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
    )
    return model


def save(model, tokenizer, out: Path) -> None:
    """Writes weights, configuration, generation defaults and tokenizer in the Hugging Face layout."""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def losses(model, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted loss of a batch, and unweighted mean losses in nats: of all targets and of scores."""
    weights = torch.from_numpy(batch.weights)
    rows, columns = torch.nonzero(weights, as_tuple=True)
    half = has_bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = model.model(
            input_ids=torch.from_numpy(batch.ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=attention_bias(batch.visible, torch.bfloat16 if half else torch.float32),
            use_cache=False,
            **router_arguments(model),
        )
        logits = model.lm_head(output.last_hidden_state[rows, columns - 1])
    targets = torch.from_numpy(batch.ids)[rows, columns]
    scale = weights[rows, columns]
    per_target = CrossEntropy.apply(logits, targets)
    loss = (per_target * scale).sum() / scale.sum()
    is_score = torch.from_numpy(batch.is_score)[rows, columns]
    means = {"loss": loss.item()}
    if is_score.any():
        means["score_loss"] = per_target[is_score].mean().item()
    return loss + load_balancing_loss(model, output), means


def attention_bias(visible: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The mask to add to attention scores, (rows, 1, length, length): 0 for visible tokens, else the
    lowest number of `dtype`. `visible` is boolean (rows, length, length)."""
    hidden = torch.finfo(dtype).min
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~visible), hidden)[:, None]


def router_arguments(model) -> dict[str, bool]:
    """Arguments of a forward pass whose output `load_balancing_loss` needs."""
    return {"output_router_logits": True} if model.config.model_type == "mixtral" else {}


def load_balancing_loss(model, output) -> torch.Tensor | float:
    """The weighted load-balancing loss of a mixture of experts, 0 for other models.

    Fedus et al. 2021 (Switch Transformer), equations 4 to 6.
    """
    if model.config.model_type != "mixtral":
        return 0.0
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config
    return 0.01 * load_balancing_loss_func(
        output.router_logits, config.num_local_experts, config.num_experts_per_tok
    )


def train(
    model,
    packed: Iterator[Batch],
    optimizers: list[torch.optim.Optimizer],
    *,
    steps: int,
    warmup: int,
    decay: float,
    label: str,
) -> dict[str, float]:
    """Trains on the batches. Returns tokens, tokens_per_second and mean losses of the last tenth."""
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    recent: dict[str, deque] = defaultdict(lambda: deque(maxlen=max(1, steps // 10)))
    tokens, began = 0, time.perf_counter()
    model.train()
    model.set_attn_implementation("eager")  # a quarter faster than sdpa at this size
    with progress_bar(steps, label, "steps") as progress:
        for step, batch in enumerate(packed):
            loss, means = losses(model, batch)
            if not bool(torch.isfinite(loss)):
                raise UserError(f"step {step + 1} of {steps}: the loss is NaN or infinite")
            model.zero_grad(set_to_none=False)
            loss.backward()
            factor = schedule(step, steps, warmup, decay)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.step()
            tokens += batch.tokens
            for name, value in means.items():
                recent[name].append(value)
            speed = rate(tokens, time.perf_counter() - began, "tokens")
            progress.set_postfix_str(f"{speed}, loss {means['loss']:.2f}", refresh=False)
            progress.update()
    model.eval()
    last_losses = {name: float(np.mean(values)) for name, values in recent.items()}
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / (time.perf_counter() - began),
        **last_losses,
    }
