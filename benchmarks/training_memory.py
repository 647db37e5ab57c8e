"""Compares the planned memory of a training pass with what it takes.

python benchmarks/training_memory.py --record    writes docs/benchmarks.md, about 5 minutes

The models have random weights and the shapes of SmolLM2-135M and GPT-2, and of small relatives of
Pythia, Qwen and Mixtral. Each pass, forward and backward, runs in a process of its own on the CPU, in
float32; measured is the growth of its largest memory in use (Linux). The last rows of the table are
plans of large models, which nothing is measured for.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from contenders import ATTENTION
from expertchat.engine.activations import row_activations
from expertchat.engine.backbone import base_of
from expertchat.engine.training import without_dropout
from peft import LoraConfig, get_peft_model
from record import markdown_table, record
from transformers import AutoConfig, AutoModelForCausalLM

GIB = 2**30
SIZES = {"vocab_size": 32_000, "num_attention_heads": 8}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M": (
        "llama",
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
    ),
    "GPT-2": ("gpt2", {}),
    "like Pythia": (
        "gpt_neox",
        {**SIZES, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
    ),
    "like Qwen2": (
        "qwen2",
        {
            **SIZES,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_key_value_heads": 2,
        },
    ),
    "like Mixtral": (
        "mixtral",
        {
            **SIZES,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_key_value_heads": 4,
            "num_local_experts": 8,
        },
    ),
}
LARGE = {
    "Llama-3-8B": (
        "llama",
        {
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "Mixtral-8x7B": (
        "mixtral",
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
        },
    ),
}
RETURN_AT_ONCE = 2**17  # bytes: freed blocks from this size on go back to the system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    rows, tokens = arguments.rows, arguments.tokens
    table = []
    for name in SHAPES:
        for adapter in (True, False):
            for again in (False, True):
                planned = rows * row_activations(make(SHAPES[name], adapter, "meta"), tokens, again)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    taken = pool.apply(measure, (name, adapter, again, rows, tokens))
                cells = [f"{planned / GIB:.3f}", f"{taken / GIB:.3f}", f"{planned / taken:.2f}"]
                table.append([name, *words(adapter, again), *cells])
                print(table[-1], flush=True)
    large = []
    for name, shape in LARGE.items():
        for again in (False, True):
            skeleton = make(shape, True, "meta", torch.bfloat16)
            row = row_activations(skeleton, 1024, again)
            large.append([name, *words(True, again), f"{row / GIB:.2f}", f"{16 * row / GIB:.1f}"])
    body = (
        f"{rows} rows of {tokens} tokens in float32 on a CPU, without the output head.\n\n"
        + markdown_table(["model", "trained", "activations", "planned GiB", "taken GiB", "ratio"], table)
        + "\n\nPlanned only, in 16 bits, for rows of 1,024 tokens:\n\n"
        + markdown_table(["model", "trained", "activations", "GiB per row", "GiB of 16 rows"], large)
    )
    print(body)
    if arguments.record:
        record("Memory of a training pass", f"benchmarks/{Path(__file__).name}", body)


def words(adapter: bool, again: bool) -> list[str]:
    return ["adapter" if adapter else "all weights", "computed again" if again else "kept"]


def make(shape: tuple[str, dict[str, Any]], adapter: bool, device: str, dtype=torch.float32):
    """A model of the shape, with an adapter of rank 16 if wanted, and without dropout."""
    architecture, sizes = shape
    with torch.device(device):
        config = AutoConfig.for_model(architecture, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    without_dropout(model)
    if adapter:
        # peft's adapters of experts do not run on the meta device
        layers = ATTENTION if architecture == "mixtral" else "all-linear"
        model = get_peft_model(model, LoraConfig(r=16, target_modules=layers))
    return model


def measure(name: str, adapter: bool, again: bool, rows: int, tokens: int) -> int:
    """Bytes by which a training pass raises the largest memory in use of this process."""
    malloc = ctypes.CDLL(None)
    for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        malloc.mallopt(option, RETURN_AT_ONCE)
    model = make(SHAPES[name], adapter, "cpu")
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    one_pass(model, 1, 8)  # what is only made once does not count
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the largest memory in use is that of now
    before = status("VmRSS")
    one_pass(model, rows, tokens)
    return status("VmHWM") - before


def one_pass(model, rows: int, tokens: int) -> None:
    base = base_of(model)
    ids = torch.randint(0, 1000, (rows, tokens))
    mask = torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)
    states = getattr(base, base.base_model_prefix)(
        input_ids=ids,
        attention_mask=mask.expand(rows, 1, -1, -1),
        position_ids=torch.arange(tokens).expand(rows, -1),
        use_cache=False,
    ).last_hidden_state
    states.sum().backward()


def status(name: str) -> int:
    """A number of bytes from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == "__main__":
    main()
