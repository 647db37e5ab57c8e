"""Several processes that train one model together: each does a share of the work, and they add it up.

All hold the same weights and the same data. A process computes the gradient of its share of a batch, the
gradients are summed, and all processes make the same step: data parallelism, with the result of one
process up to rounding. In a process on its own every function here gives back what it gets.

`pipeline.processes` starts the processes; `join` connects them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

from expertchat.errors import UserError

WAIT = timedelta(minutes=30)  # longest time that a process waits for the others
BUCKET = 32 << 20  # bytes that are summed at once
Item = TypeVar("Item")


def join(rank: int, count: int, address: str, gpu: int) -> None:
    """Connects this process, number `rank` of `count`, to the others.

    `address` is the same for all: a new file of their machine (file://) or a port (tcp://). If there are
    GPUs, this process sees the one with the number `gpu` of those that it was given, and no other.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if given != "" and names:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[gpu % len(names)]
    if address.startswith("file:"):  # all are on this machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, address, WAIT, world_size=count, rank=rank)


def leave() -> None:
    """Disconnects this process, if it is connected."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(items: Sequence[Item]) -> list[Item]:
    """The items that are this process's to work on: every n-th, so that neighbours are spread."""
    return list(items[rank() :: count()])


def gathered(own: Sequence[Item], total: int) -> list[Item]:
    """The results of all processes on their shares of `total` items, in the order of the items."""
    if count() == 1:
        return list(own)
    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, list(own))
    results: list[Any] = [None] * total
    for number, part in enumerate(parts):
        results[number :: count()] = part
    return results


def block(items: Tensor) -> Tensor:
    """The items [N, ...] that are this process's to work on: neighbours stay together."""
    return items.tensor_split(count())[rank()]


def from_first(function: Callable[[], Item]) -> Item:
    """What `function` returns in the first process; the others do not call it."""
    if count() == 1:
        return function()
    values: list[Any] = [function() if rank() == 0 else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def stacked(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one after the other, along a first dimension."""
    return torch.stack(gathered([tensor.cpu()], count())).to(tensor.device)


def summed(values: Mapping[str, float]) -> dict[str, float]:
    """The sums of numbers over all processes, by name."""
    every = gathered([values], count())
    return {name: sum(own[name] for own in every) for name in values}


def for_all(update: Callable[[int], None], own: int, every: int) -> Callable[[int], None]:
    """A function to which a process reports its part of the work, `own` in all; it calls `update` with
    as much of the work of all, `every` in all, as if they were equally far."""
    done = told = 0

    def report(amount: int) -> None:
        nonlocal done, told
        done += amount
        now = every * done // max(1, own)
        update(now - told)
        told = now

    return report


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces the gradients by their sums over all processes.

    The parameters are the same in all processes; a gradient that a process lacks counts as 0.
    """
    if count() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        last = bucket[-1] if bucket else parameter.grad
        alike = last.dtype == parameter.grad.dtype and last.device == parameter.grad.device
        if not alike or sum(tensor.nbytes for tensor in bucket) > BUCKET:
            _sum(bucket)
            bucket = []
        bucket.append(parameter.grad)
    _sum(bucket)


def _sum(tensors: Sequence[Tensor]) -> None:
    """Sums tensors of one type and device over all processes, in place."""
    if not tensors:
        return
    together = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(together)
    for tensor, part in zip(tensors, together.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def require_equal(parameters: Iterable[Tensor]) -> None:
    """Raises UserError if the trained weights of the processes are not the same."""
    sums = [float(parameter.detach().double().abs().sum()) for parameter in parameters]
    if any(other != sums for other in gathered([sums], count())):
        raise UserError(
            "the processes that train together no longer have the same weights; give the same command "
            "again: it goes on from the last checkpoint"
        )
