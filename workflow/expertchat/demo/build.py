"""Builds a demo model from scratch: trains its tokenizer and its weights on the demo's corpus."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from expertchat.checkpoints import Checkpoints
from expertchat.demo.corpus import Mix, Plain, Ratings, documents
from expertchat.demo.experts import use_dense_experts
from expertchat.demo.optimizer import make_optimizers
from expertchat.demo.packing import Encoder, Weights, batches
from expertchat.demo.tokenizer import train_tokenizer
from expertchat.demo.training import train
from expertchat.demo.world import World, build_world

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
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Trains a chat model on the demo's corpus and saves it to `out` in the Hugging Face layout.

    Resumes from the latest checkpoint in `checkpoints`; None: there are none.

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
        packed,
        make_optimizers(model, matrix_rate=matrix_rate, other_rate=other_rate),
        steps=steps,
        warmup=warmup,
        decay=decay,
        label=f"building {architecture}",
        saved=None if checkpoints is None else Checkpoints(checkpoints / "steps"),
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
