"""Batch sizes: as many items as memory is planned to hold, fewer after a failed allocation."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from expertchat.engine.memory import row_bytes
from expertchat.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_ROWS = 1024  # larger batches are not faster
MAX_PASS_TOKENS = {"cpu": 2048, "cuda": 16384}  # larger passes take memory and are not faster
MINUTE_FLOP = {"cpu": 2.5e12, "cuda": 1e15}  # what a slow device computes in about a minute
MIN_QUESTIONS = 64
QUESTION_TOKENS = 150  # read for an ordinary question, what it shares with others not counted
SHARE = 0.6  # of the free memory that a plan may use; activations and the allocator need the rest

processes = 1  # processes of this job that use the host's memory at the same time; set by process.serve


def free_bytes(model) -> int:
    """Memory that is free for the model: its number of GPUs times the fullest one's, else the host's.

    Processes that work at the same time get equal parts of the host's.
    """
    gpus = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    if gpus:
        return len(gpus) * min(map(_gpu_free_bytes, gpus))
    return _host_free_bytes() // processes


def _host_free_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gpu_free_bytes(gpu: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(gpu)
    return free + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)


def planned_rows(model, tokens: int) -> int:
    """Number of rows of `tokens` tokens each that are planned to fit in the memory that is free now."""
    row = row_bytes(model.config, model.dtype.itemsize, tokens)
    return max(1, min(MAX_ROWS, int(SHARE * free_bytes(model)) // row))


def planned_tokens(model) -> int:
    """Number of tokens per pass: few enough to fit in memory and in a processor's caches."""
    most = MAX_PASS_TOKENS.get(model.device.type, MAX_PASS_TOKENS["cpu"])
    token = row_bytes(model.config, model.dtype.itemsize, 1) - row_bytes(
        model.config, model.dtype.itemsize, 0
    )
    return max(1, min(most, int(SHARE * free_bytes(model)) // token))


def questions_per_piece(model) -> int:
    """Number of questions of ordinary length that a slow device answers in about a minute.

    At least `MIN_QUESTIONS`, since fewer would read what they share too often.
    """
    flop = MINUTE_FLOP.get(model.device.type, MINUTE_FLOP["cpu"])
    return max(MIN_QUESTIONS, int(flop / (2 * model.num_parameters() * QUESTION_TOKENS)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error reports that memory ran out, on a GPU or on the host."""
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "can't allocate memory" in str(error)
        or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
    )


class Batches:
    """Runs a function over items in batches of at most `max_size`, which is halved if memory runs out.

    The smaller size is used from then on. The results do not depend on it.
    """

    def __init__(self, max_size: int, make_room: Callable[[], bool] = lambda: False):
        """`make_room` frees memory that is not needed, and returns whether there was any."""
        self.max_size, self.make_room = max_size, make_room

    def run(
        self,
        items: Sequence[Item],
        function: Callable[[Sequence[Item]], Result],
        planned: int | Callable[[int], int],
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Yields (items, result) for each batch, in order.

        `planned`: number of items that are planned to fit at once, or a function that gives this number
        for the index of a batch's first item. Raises UserError if a single item does not fit.
        """
        done = 0
        while done < len(items):
            size = planned(done) if callable(planned) else planned
            part = items[done : done + max(1, min(self.max_size, size))]
            try:
                results = function(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                room = self.make_room()
                if len(part) == 1 and not room:
                    raise UserError(
                        "memory does not suffice for a single sequence of this length: "
                        "shorten the prompts, quantize the model, or use a larger GPU"
                    ) from error
                if not room:
                    self.max_size = len(part) // 2
                results = None
            if results is None:  # outside the handler: the exception refers to the failed pass's tensors
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield part, results
            done += len(part)
