"""Measures generation on a real model: against transformers' generate, and the machine's limits.

Batches: prompts read and continued by a fixed number of tokens, against generate on the same prompts
with the same settings. Dialogues of a pair of one base: the stage's own loop, against one that calls
generate for each turn on the same batches and reads each prompt again. Generate runs on a model that
transformers loaded, without any of the engine's changes. Limits: prefill, decoding and drawing timed
apart. No pass can be faster than its floating-point operations by the speed of a large matrix product,
nor than the bytes that it must read by the memory bandwidth; both are measured here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from decoding import copy_bandwidth, step_bytes, synchronise
from engine import compare, talking
from expertchat import chat
from expertchat.engine.generate import generation
from expertchat.engine.generate.generation import continue_batch, padded, read_prompts
from expertchat.engine.generate.stopping import StoppingRules
from expertchat.engine.linear import is_float32_on_cpu, onednn, onednn_is_faster
from expertchat.engine.local import LocalEngine
from expertchat.prompts import read_prompts as read_prompt_files
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from record import markdown_table, record
from transformers import AutoModelForCausalLM, GenerationConfig

ROOT = Path(__file__).resolve().parents[1]
QUESTION = (
    "You are talking with a colleague about case {number} of last month. Explain in detail what an "
    "expert would look at first, what could go wrong, which of the usual rules of thumb does not hold "
    "here, and how you would find out. Give one example from your own work, with numbers."
)
LIMITS_HEAD = [
    "rows",
    "prefill",
    "of its limit",
    "decoding step, without draw",
    "of its limit",
    "draw",
    "of its limit",
    "draw, of a step",
]
STRATEGIES = {
    "top_p 0.95": Decoding(top_p=0.95),
    "all tokens": Decoding(),
    "greedy": Decoding(strategy="greedy"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a chat model with its tokenizer")
    parser.add_argument("--batch", type=int, default=16, help="rows, in the comparison with generate")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a continuation")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64], help="rows, for the limits")
    parser.add_argument("--dialogues", type=int, default=16)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = LocalEngine(arguments.model, Load(), max(arguments.batch, arguments.dialogues))
    plain = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=engine.model.dtype)
    plain = plain.to(engine.model.device)
    plain.generation_config = GenerationConfig()
    batches = [
        [name, *against_generate(engine, plain, decoding, arguments)]
        for name, decoding in STRATEGIES.items()
    ]
    talk = dialogues(engine, plain, arguments)
    apart, note = limits(engine, arguments)
    head = ["engine", "generate", "ratio, median of runs", "lowest to highest"]
    body = "\n\n".join(
        [
            f"{sum(p.numel() for p in engine.model.parameters()) / 1e6:,.0f}M parameters in "
            f"{engine.model.dtype}, {arguments.threads} thread(s), {arguments.repeats} alternating runs "
            f"of each side. {arguments.tokens} tokens after {arguments.batch} prompts, in tokens per "
            "second, prefill included:",
            markdown_table(["drawn from", *head], batches),
            f"{arguments.dialogues} dialogues of {arguments.turns} turns of at most {arguments.tokens} "
            "tokens, top_p 0.95, of a pair of one base:",
            markdown_table(["what", *head], [talk]),
            note,
            markdown_table(LIMITS_HEAD, apart),
        ]
    )
    print(body)
    if arguments.record:
        record("Generation on a real model", "benchmarks/generation.py", body)


def prompts_for(engine: LocalEngine, rows: int) -> list[list[int]]:
    """Token ids of different prompts of about the same length."""
    texts = [QUESTION.format(number=1000 + row) for row in range(rows)]
    return [chat.encode(engine.tokenizer, [{"role": "user", "content": text}]) for text in texts]


def against_generate(engine: LocalEngine, plain, decoding: Decoding, arguments) -> list[str]:
    """[engine, generate, ratio, range] of tokens per second, at the same length of all rows."""
    decoding = decoding.model_copy(update={"max_new_tokens": arguments.tokens})
    prompts = prompts_for(engine, arguments.batch)
    ids, mask = padded(prompts, engine.pad, engine.model.device, "left")
    made = arguments.batch * arguments.tokens
    options = {"do_sample": False}
    if decoding.strategy == "sampling":
        options = {"do_sample": True, "temperature": 1.0, "top_p": decoding.top_p, "top_k": 0}

    def ours() -> float:
        times = timed(engine, prompts, decoding)
        return made / (times.prefill + times.decoding + times.drawing)

    @torch.inference_mode()
    def theirs() -> float:
        synchronise(engine.model.device)
        began = time.perf_counter()
        found = plain.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=arguments.tokens,
            pad_token_id=engine.pad,
            **options,
        )
        synchronise(engine.model.device)
        seconds = time.perf_counter() - began
        assert found.shape[1] == ids.shape[1] + arguments.tokens  # no end token is known to it
        return made / seconds

    theirs()  # the first call of either side is not measured
    return compare(ours, theirs, arguments.repeats)


def dialogues(engine: LocalEngine, plain, arguments) -> list[str]:
    """[what, stage, plain loop, ratio, range] of tokens per second of complete dialogues."""
    loop = SimpleNamespace(
        model=plain, tokenizer=engine.tokenizer, pad=engine.pad, end_ids=engine.end_ids
    )
    texts = read_prompt_files(ROOT / "config/prompts")
    decoding = Decoding(top_p=0.95, max_new_tokens=arguments.tokens)
    number, turns, repeats = arguments.dialogues, arguments.turns, arguments.repeats
    names = ("model-1", "model-2")
    ours, theirs = dict.fromkeys(names, engine), dict.fromkeys(names, loop)
    return talking(ours, theirs, texts, turns, number, None, repeats, decoding, one_process=True)


@dataclass(frozen=True)
class Times:
    """Seconds: reading the prompts, all forward passes after it, and all draws."""

    prefill: float
    decoding: float
    drawing: float


@torch.inference_mode()
def timed(engine: LocalEngine, prompts: Sequence[list[int]], decoding: Decoding) -> Times:
    """Times of reading the prompts and continuing each to the largest number of tokens."""
    model, device, tokens = engine.model, engine.model.device, decoding.max_new_tokens
    uniform = np.random.default_rng(0).random((len(prompts), tokens))
    drawing, draw = 0.0, generation.draw

    def timed_draw(*inputs):
        nonlocal drawing
        synchronise(device)
        began = time.perf_counter()
        drawn = draw(*inputs)
        synchronise(device)
        drawing += time.perf_counter() - began
        return drawn

    generation.draw = timed_draw
    try:
        synchronise(device)
        began = time.perf_counter()
        none = [None] * len(prompts)
        state = read_prompts(model, prompts, engine.pad, none, tokens, engine.reusable)
        synchronise(device)
        read = time.perf_counter()
        stopping = StoppingRules(decoding, [])
        continue_batch(model, state, prompts, uniform, decoding, stopping, engine.pad)
        ended = time.perf_counter()
    finally:
        generation.draw = draw
    return Times(read - began, ended - read - drawing, drawing)


def limits(engine: LocalEngine, arguments) -> tuple[list[list[str]], str]:
    """(rows of the table, a sentence about the limits)."""
    model, decoding = engine.model, Decoding(top_p=0.95, max_new_tokens=arguments.tokens)
    bandwidth, peak = copy_bandwidth(model.device), matrix_speed(model)
    sizes = sorted(set(arguments.sizes))
    prompts = {rows: prompts_for(engine, rows) for rows in sizes}
    timed(engine, prompts[sizes[0]], decoding)  # not measured
    runs: dict[int, list[Times]] = {rows: [] for rows in sizes}
    for _ in range(arguments.repeats):
        for rows in sizes:
            runs[rows].append(timed(engine, prompts[rows], decoding))
    table, steps = [], arguments.tokens - 1
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for rows, times in runs.items():
        length = statistics.mean(map(len, prompts[rows]))
        slots = length + arguments.tokens / 2
        prefill = statistics.median(t.prefill for t in times)
        step = statistics.median(t.decoding for t in times) / steps
        draw = statistics.median(t.drawing for t in times) / arguments.tokens
        reading = step_bytes(model, rows, slots) / bandwidth
        least_prefill = max(operations(model, rows, length, length / 2) / peak, reading)
        computing = operations(model, rows, 1, slots) / peak
        least_draw = rows * vocabulary * model.dtype.itemsize / bandwidth
        kind = "bytes" if reading > computing else "operations"
        table.append(
            [
                str(rows),
                f"{rows * length / prefill:,.0f} tokens/s",
                f"{100 * least_prefill / prefill:.0f} %",
                f"{1000 * step:.1f} ms, {rows / (step + draw):,.0f} tokens/s",
                f"{100 * max(reading, computing) / step:.0f} % ({kind})",
                f"{1000 * draw:.2f} ms",
                f"{100 * least_draw / draw:.0f} % (bytes)",
                f"{100 * draw / (step + draw):.1f} %",
            ]
        )
    note = (
        f"Prefill of prompts of about {statistics.mean(map(len, prompts[sizes[0]])):.0f} tokens, "
        "decoding steps after them, and draws at top_p 0.95, timed apart; medians. Limits: memory "
        f"bandwidth {bandwidth / 1e9:,.1f} GB/s (by a copy), {peak / 1e9:,.0f} GFLOP/s (by a large "
        "matrix product):"
    )
    return table, note


def operations(model, rows: int, new: float, attended: float) -> float:
    """Floating-point operations of a forward pass over `new` tokens per row, with logits of the last.

    Each token attends to `attended` tokens on average.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    tables = {id(p): p.numel() for p in (head, model.get_input_embeddings().weight)}
    layers = sum(p.numel() for p in model.parameters()) - sum(tables.values())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * width * attended
    return rows * (new * (2 * layers + attention) + 2 * head.numel())


def matrix_speed(model) -> float:
    """Floating-point operations per second of the fastest of several large matrix products."""
    size = 8192 if model.device.type == "cuda" else 2048
    slow = is_float32_on_cpu(model.get_output_embeddings().weight) and onednn_is_faster()
    multiply = onednn if slow else torch.mm
    left = torch.ones(size, size, device=model.device, dtype=model.dtype)
    best = float("inf")
    for _ in range(8):
        synchronise(model.device)
        began = time.perf_counter()
        multiply(left, left)
        synchronise(model.device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
