"""Timing of a model in this process: how long its engine takes to read prompts and to draw replies.

Prompts are random tokens of an exact length, different in each row, and no token ends a reply, so that
every batch has the shape that was asked for.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from expertchat.engine.batches import free_bytes, is_out_of_memory
from expertchat.engine.generate.generation import continue_batch, read_prompts
from expertchat.engine.generate.stopping import StoppingRules
from expertchat.engine.interface import Source
from expertchat.engine.loading import check_gpus, make_skeleton
from expertchat.engine.local import LocalEngine
from expertchat.engine.memory import GIB, block_bytes, footprint, row_bytes
from expertchat.engine.placement import Need, gpu_free_bytes, place
from expertchat.engine.rotation import is_long, long_rope_limit, rotate_as
from expertchat.engine.timed import DoesNotFit, Loaded, TimeBatch, Timing
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding

CLEAR_PEAK = "5"  # what makes /proc/self/clear_refs set the peak back to what is resident now


def load_timed(source: Source, tokens: int) -> tuple[Loaded, TimeBatch | None]:
    """The model, loaded on as few GPUs as it fits on, and the function that times its batches.

    None if not even one row of `tokens` tokens fits beside the weights; `Loaded.reason` says why.
    Raises UserError if GPUs were given to this job and cannot be used.
    """
    check_gpus()
    skeleton = make_skeleton(source.folder, source.load)
    blocks = block_bytes(skeleton, source.load)
    about = {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(skeleton.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
        "planned_bytes": sum(blocks.values()),
    }
    row = row_bytes(skeleton.config, skeleton.dtype.itemsize, tokens)
    memory = Memory()
    began = time.perf_counter()
    try:
        placement = fewest_gpus(Need(source.name, blocks, row), gpu_free_bytes(), free_bytes(skeleton))
        about["gpus"] = len(set(placement.values())) if placement else 0
        with out_of_memory_told("the weights do not fit into memory"):
            engine = LocalEngine(source.folder, source.load, source.batch_size, placement)
            engine.use(source.adapter)
    except DoesNotFit as error:
        return Loaded(**about, reason=str(error)), None
    seconds, peak = time.perf_counter() - began, memory.peak()
    loaded = Loaded(
        **about, weights_bytes=footprint(engine.model), load_seconds=seconds, load_peak_bytes=peak
    )

    def time_batch(prompt_tokens: int, output_tokens: int, rows: int, seed: int) -> Timing:
        try:
            return time_local(engine, memory, prompt_tokens, output_tokens, rows, seed)
        except DoesNotFit as error:
            reason = str(error)
        # outside the handler: the exception refers to the failed pass's tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise DoesNotFit(reason)

    return loaded, time_batch


def device_name() -> str:
    """The name of the GPUs, or of the processor if there are none."""
    if torch.cuda.is_available():
        gpus = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return " and ".join(sorted(gpus))
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "CPU")


def fewest_gpus(need: Need, free: Sequence[int], host: int) -> Mapping[str, int] | None:
    """A GPU for each module, on the first GPUs that hold the model; None without GPUs.

    `free`: free bytes of each GPU, `host`: of the main memory. Raises DoesNotFit if all GPUs together,
    or without GPUs the main memory, are too small.
    """
    wanted = sum(need.blocks.values()) + need.working
    if not free and wanted > host:
        raise DoesNotFit(
            f"weights and one row need {wanted / GIB:.1f} GiB, and {host / GIB:.1f} GiB of main memory "
            "are free"
        )
    for count in range(1, len(free) + 1):
        try:
            return place([need], free[:count]).devices[0]
        except UserError as error:
            if count == len(free):
                raise DoesNotFit(str(error)) from None
    return None


class Memory:
    """The peak of the memory that this process uses: of all its GPUs, or without GPUs of main memory,
    above what it used when this object was made."""

    def __init__(self) -> None:
        self.gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        self.before = 0 if self.gpus else _resident("VmRSS")
        self.start()

    def start(self) -> None:
        """Forgets earlier peaks. A kernel that does not allow this for main memory (clear_refs) leaves
        the largest so far."""
        for gpu in self.gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        if not self.gpus:
            try:
                Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="ascii")
            except OSError:
                return

    def peak(self) -> int:
        """Bytes at the peak since the start."""
        if self.gpus:
            return sum(torch.cuda.max_memory_allocated(gpu) for gpu in self.gpus)
        return _resident("VmHWM") - self.before


def _resident(key: str) -> int:
    """Bytes of this process's main memory: "VmRSS" now, "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


@contextmanager
def out_of_memory_told(reason: str) -> Iterator[None]:
    """Raises DoesNotFit with this reason if memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(reason) from None


@torch.inference_mode()
def time_local(
    engine: LocalEngine, memory: Memory, prompt_tokens: int, output_tokens: int, rows: int, seed: int
) -> Timing:
    """Times one batch by the functions with which the engine generates. See `TimeBatch`."""
    model, tokens = engine.model, prompt_tokens + output_tokens
    if engine.context_tokens is not None and tokens > engine.context_tokens:
        raise DoesNotFit(f"{tokens:,} tokens, and the model reads at most {engine.context_tokens:,}")
    planned = rows * row_bytes(model.config, model.dtype.itemsize, tokens)
    available = free_bytes(model)
    if planned > available:
        raise DoesNotFit(
            f"the batch needs {planned / GIB:.1f} GiB beside the weights, and {available / GIB:.1f} GiB "
            "are free"
        )
    random = np.random.default_rng(seed)
    vocabulary = model.config.get_text_config().vocab_size
    prompts = random.integers(vocabulary, size=(rows, prompt_tokens)).tolist()
    uniform = random.random((rows, output_tokens))
    decoding = Decoding(max_new_tokens=output_tokens)
    stopping, long = StoppingRules(decoding, end_ids=[]), is_long(model.config, prompt_tokens)
    limit = None if long else long_rope_limit(model.config)
    memory.start()
    with out_of_memory_told("memory ran out"), rotate_as(model, long):
        began = _now()
        state = read_prompts(model, prompts, engine.pad, [None] * rows, output_tokens, engine.reusable)
        read = _now()
        completions, _ = continue_batch(
            model, state, prompts, uniform, decoding, stopping, engine.pad, limit=limit
        )
        drawn = _now()
    return Timing(
        seconds=drawn - began,
        drawn_tokens=sum(len(completion.ids) for completion in completions),
        prefill_seconds=read - began,
        decode_seconds=drawn - read,
        peak_memory_bytes=memory.peak(),
    )


def _now() -> float:
    """The clock in seconds, once all GPUs have done what they were given."""
    for gpu in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        torch.cuda.synchronize(gpu)
    return time.perf_counter()
