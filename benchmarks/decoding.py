"""Compares decoding with the limit of memory bandwidth, on a model of 8B shape with random weights.

Each step reads all weights and all cached keys and values once, so no decoder can be faster than those
bytes divided by the memory bandwidth, which is measured here by a copy. The time per step is the time of
a long run minus that of a short run, divided by the difference in steps.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from expertchat.engine.generate.generation import continue_batch, read_prompts
from expertchat.engine.generate.stopping import StoppingRules
from expertchat.engine.memory import token_bytes
from expertchat.settings.decoding import Decoding
from record import markdown_table, record
from transformers import AutoModelForCausalLM, LlamaConfig

SHAPES = {
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and arguments.shape == "8b":
        sys.exit("no GPU found; --shape small runs on a CPU")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        config = LlamaConfig(**SHAPES[arguments.shape], max_position_embeddings=8192)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    short, long = arguments.tokens // 4, arguments.tokens
    for tokens in (8, short):  # the first run compiles kernels
        decode(model, arguments, tokens)
    seconds = (decode(model, arguments, long) - decode(model, arguments, short)) / (long - short)
    read = step_bytes(model, arguments.batch, arguments.prompt + (short + long) / 2)
    bandwidth = copy_bandwidth(device)
    rows = [
        ["time per step", f"{1000 * seconds:.2f} ms"],
        ["tokens per second", f"{arguments.batch / seconds:,.0f}"],
        ["bytes that a step must read", f"{read / 1e9:.2f} GB"],
        ["memory bandwidth, measured by a copy", f"{bandwidth / 1e9:,.0f} GB/s"],
        ["share of the limit", f"{100 * read / bandwidth / seconds:.0f} %"],
    ]
    where = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    body = markdown_table(["what", "measured"], rows)
    body += (
        f"\n\nShape {arguments.shape}, {dtype}, batch {arguments.batch}, prompts of {arguments.prompt} "
        f"tokens, on {where}."
    )
    print(body)
    if arguments.record:
        record(f"Decoding, {arguments.shape} shape", "benchmarks/decoding.py", body)


@torch.inference_mode()
def decode(model, arguments, tokens: int) -> float:
    """Seconds to continue random prompts by `tokens` tokens, without reading the prompts."""
    generator = np.random.default_rng(0)
    prompts = generator.integers(5, 1000, (arguments.batch, arguments.prompt)).tolist()
    decoding = Decoding(max_new_tokens=tokens)
    read = read_prompts(model, prompts, 0, [None] * len(prompts), tokens, True)
    synchronise(model.device)
    began = time.perf_counter()
    uniform = generator.random((arguments.batch, tokens))
    continue_batch(model, read, prompts, uniform, decoding, StoppingRules(decoding, []), 0)
    synchronise(model.device)
    return time.perf_counter() - began


def step_bytes(model, batch: int, slots: float) -> float:
    """Bytes that a decoding step must read: all weights, and the cache at its mean number of slots.

    Of an embedding table that is not also the output head a step reads only a few rows.
    """
    weights = sum(p.nbytes for p in model.parameters())
    embedding = model.get_input_embeddings().weight
    if embedding is not model.get_output_embeddings().weight:
        weights -= embedding.nbytes
    return weights + batch * slots * token_bytes(model.config, model.dtype.itemsize)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read plus written, of the fastest of several large copies."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(8):
        synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * source.nbytes / best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
