"""Placement: which GPUs each model gets, computed from planned bytes alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expertchat.errors import UserError

GIB = 2**30
PERCENTS = range(1, 101)


@dataclass(frozen=True)
class Need:
    """Memory that a model needs.

    `blocks`: bytes of each module that must not be split, in the order they run. `working`: bytes
    needed in addition on each GPU that the model uses, for caches and activations.
    """

    name: str
    blocks: Mapping[str, int]
    working: int


@dataclass(frozen=True)
class Placement:
    """A GPU for each block of each model; `side_by_side`: no GPU is shared by two models."""

    devices: tuple[dict[str, int], ...]
    side_by_side: bool


def fill(blocks: Mapping[str, int], room: Sequence[int]) -> dict[str, int] | None:
    """Places blocks in order, each on the previous one's GPU or the next with room.

    Returns None if they do not fit.

    `room`: bytes available on each GPU.
    """
    devices, gpu, used = {}, 0, 0
    for name, size in blocks.items():
        while gpu < len(room) and used + size > room[gpu]:
            gpu, used = gpu + 1, 0
        if gpu == len(room):
            return None
        devices[name], used = gpu, used + size
    return devices


def spread(blocks: Mapping[str, int], room: Sequence[int]) -> tuple[int, dict[str, int]] | None:
    """(percent, devices): the lowest percentage of the GPUs' room in which the blocks fit, else None."""
    for percent in PERCENTS:
        devices = fill(blocks, [r * percent // 100 for r in room])
        if devices is not None:
            return percent, devices
    return None


def _with_counts(needs: Sequence[Need], free: Sequence[int], counts: Sequence[int]):
    """(percent, devices) of each model on `counts` GPUs of its own; None if one does not fit."""
    placed, first = [], 0
    for need, count in zip(needs, counts, strict=True):
        filled = spread(need.blocks, [f - need.working for f in free[first : first + count]])
        if filled is None:
            return None
        percent, devices = filled
        placed.append((percent, {name: first + gpu for name, gpu in devices.items()}))
        first += count
    return placed


def _side_by_side(needs: Sequence[Need], free: Sequence[int]) -> Placement | None:
    """Each model on the fewest GPUs that it fits on; each remaining GPU goes to the fullest model."""
    counts: list[int] = []
    for i in range(len(needs)):
        available = range(1, len(free) - sum(counts) + 1)
        fitting = [n for n in available if _with_counts(needs[: i + 1], free, [*counts, n])]
        if not fitting:
            return None
        counts.append(fitting[0])
    placed = _with_counts(needs, free, counts)
    while sum(counts) < len(free):
        fullest = max(range(len(needs)), key=lambda i: placed[i][0])
        counts[fullest] += 1
        shifted = _with_counts(needs, free, counts)
        if shifted is None:  # the GPUs that later models move to are smaller
            break
        placed = shifted
    return Placement(tuple(devices for _, devices in placed), side_by_side=True)


def _together(needs: Sequence[Need], free: Sequence[int]) -> Placement | None:
    """All models spread over all GPUs, each with its working memory on every GPU."""
    room = [f - sum(need.working for need in needs) for f in free]
    placed = []
    for need in needs:
        filled = spread(need.blocks, room)
        if filled is None:
            return None
        _, devices = filled
        for name, gpu in devices.items():
            room[gpu] -= need.blocks[name]
        placed.append(devices)
    return Placement(tuple(placed), side_by_side=False)


def place(needs: Sequence[Need], free: Sequence[int]) -> Placement:
    """Places models on GPUs with these `free` bytes: side by side if they fit, else sharing all GPUs.

    GPUs are assigned in their order. Raises UserError if the models do not fit.
    """
    placement = _side_by_side(needs, free) or _together(needs, free)
    if placement is not None:
        return placement
    names = " and ".join(need.name for need in needs)
    weights = sum(sum(need.blocks.values()) for need in needs)
    working = sum(need.working for need in needs)
    message = (
        f"{names} need {weights / GIB:.1f} GiB for weights and {working / GIB:.1f} GiB on each GPU for "
        f"caches and activations, but {len(free)} GPUs have {sum(free) / GIB:.1f} GiB free: "
    )
    if not free:
        raise UserError(message + "request a GPU")
    raise UserError(
        message
        + f"each lacks {_lacking(needs, free) / GIB:.1f} GiB; quantize a model (load.quantization), or "
        "use more or larger GPUs, or fewer tokens"
    )


def place_copies(need: Need, free: Sequence[int]) -> list[dict[str, int]]:
    """A GPU for each block of each of as many copies of a model as fit side by side.

    Raises UserError if not even one copy fits.
    """
    for copies in range(len(free), 1, -1):
        placement = _side_by_side([need] * copies, free)
        if placement is not None:
            return list(placement.devices)
    return list(place([need], free).devices)


def _lacking(needs: Sequence[Need], free: Sequence[int]) -> int:
    """Additional bytes that each GPU would need, to within one percent of the models' total bytes."""
    most = sum(sum(need.blocks.values()) + need.working for need in needs) + max(0, -min(free))
    for step in PERCENTS:
        extra = most * step // 100
        more = [f + extra for f in free]
        if _side_by_side(needs, more) or _together(needs, more):
            return extra
    return most


def gpu_free_bytes() -> list[int]:
    """Free bytes of each GPU visible to this process, after it released its own unused memory."""
    import torch

    if not torch.cuda.is_available():
        return []
    gc.collect()
    torch.cuda.empty_cache()
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]
