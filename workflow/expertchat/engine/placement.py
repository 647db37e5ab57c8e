"""Placement: which GPUs each model of a pair gets, from planned bytes alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expertchat.errors import UserError

GIB = 2**30
PERCENTS = range(1, 101)


@dataclass(frozen=True)
class Need:
    """What a model needs.

    `blocks`: bytes of the modules that stay whole, in the order in which they run; `working`: bytes
    beside them on each GPU that the model uses.
    """

    name: str
    blocks: Mapping[str, int]
    working: int


@dataclass(frozen=True)
class Placement:
    """A GPU for each block of each model; `side_by_side`: no GPU serves two models."""

    devices: tuple[dict[str, int], ...]
    side_by_side: bool


def fill(blocks: Mapping[str, int], room: Sequence[int]) -> dict[str, int] | None:
    """The blocks in order, each on the GPU of the one before or the next with room; None: do not fit."""
    devices, gpu, used = {}, 0, 0
    for name, size in blocks.items():
        while gpu < len(room) and used + size > room[gpu]:
            gpu, used = gpu + 1, 0
        if gpu == len(room):
            return None
        devices[name], used = gpu, used + size
    return devices


def spread(blocks: Mapping[str, int], room: Sequence[int]) -> tuple[int, dict[str, int]] | None:
    """(percent, devices): the blocks with all GPUs filled to the lowest percent of their room."""
    for percent in PERCENTS:
        devices = fill(blocks, [r * percent // 100 for r in room])
        if devices is not None:
            return percent, devices
    return None


def _apart(needs: Sequence[Need], free: Sequence[int], counts: Sequence[int]):
    """(percent, devices) of each model on so many GPUs of its own, None where one does not fit."""
    found, first = [], 0
    for need, count in zip(needs, counts, strict=True):
        fit = spread(need.blocks, [f - need.working for f in free[first : first + count]])
        if fit is None:
            return None
        found.append((fit[0], {name: first + gpu for name, gpu in fit[1].items()}))
        first += count
    return found


def _side_by_side(needs: Sequence[Need], free: Sequence[int]) -> Placement | None:
    """Each model on the fewest GPUs that hold it; GPUs left over go to the fullest one by one."""
    counts: list[int] = []
    for i in range(len(needs)):
        left = range(1, len(free) - sum(counts) + 1)
        fitting = [n for n in left if _apart(needs[: i + 1], free, [*counts, n])]
        if not fitting:
            return None
        counts.append(fitting[0])
    found = _apart(needs, free, counts)
    while sum(counts) < len(free):
        fullest = max(range(len(needs)), key=lambda i: found[i][0])
        counts[fullest] += 1
        more = _apart(needs, free, counts)
        if more is None:  # smaller GPUs further on
            break
        found = more
    return Placement(tuple(devices for _, devices in found), side_by_side=True)


def _together(needs: Sequence[Need], free: Sequence[int]) -> Placement | None:
    """All models over all GPUs, each with its share of the working memory on each."""
    room = [f - sum(need.working for need in needs) for f in free]
    found = []
    for need in needs:
        fit = spread(need.blocks, room)
        if fit is None:
            return None
        for name, gpu in fit[1].items():
            room[gpu] -= need.blocks[name]
        found.append(fit[1])
    return Placement(tuple(found), side_by_side=False)


def place(needs: Sequence[Need], free: Sequence[int]) -> Placement:
    """Models on the GPUs with so many `free` bytes: side by side where they fit, else on all together.

    GPUs are given out in their order. Raises UserError where the models do not fit.
    """
    placement = _side_by_side(needs, free) or _together(needs, free)
    if placement is not None:
        return placement
    names = " and ".join(need.name for need in needs)
    weights = sum(sum(need.blocks.values()) for need in needs)
    working = sum(need.working for need in needs)
    message = (
        f"{names} need {weights / GIB:.1f} GiB for weights and {working / GIB:.1f} GiB on each GPU to "
        f"work with, and {len(free)} GPUs have {sum(free) / GIB:.1f} GiB free: "
    )
    if not free:
        raise UserError(message + "ask for a GPU")
    raise UserError(
        message
        + f"each lacks {_lacking(needs, free) / GIB:.1f} GiB; quantize a model (load.quantization), "
        "take more or larger GPUs, or fewer tokens"
    )


def _lacking(needs: Sequence[Need], free: Sequence[int]) -> int:
    """Bytes that each GPU would have to have more, to within a hundredth of what is needed."""
    most = sum(sum(need.blocks.values()) + need.working for need in needs) + max(0, -min(free))
    for step in PERCENTS:
        extra = most * step // 100
        more = [f + extra for f in free]
        if _side_by_side(needs, more) or _together(needs, more):
            return extra
    return most


def gpu_free_bytes() -> list[int]:
    """Bytes free on each GPU that this process sees, after giving back what it does not use."""
    import torch

    if not torch.cuda.is_available():
        return []
    gc.collect()
    torch.cuda.empty_cache()
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
