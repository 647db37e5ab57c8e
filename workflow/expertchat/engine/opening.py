"""Opening engines: which kind serves a model, and on which devices it lies."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from expertchat.engine.interface import Engine, Source
from expertchat.errors import UserError

WORKING_ROWS, WORKING_TOKENS = 4, 2048  # that a placement must leave room for


def open_engine(source: Source, placement: Mapping[str, int] | None = None) -> Engine:
    """An engine in this process or behind a server, as the model's settings say.

    `placement`: a GPU for each of the model's modules; without it the model lies on all GPUs.
    """
    if source.load.server is not None:
        from expertchat.engine.server.engine import ServerEngine

        return ServerEngine(source.folder, source.load, source.adapter, source.log)
    from expertchat.engine.local import LocalEngine

    engine = LocalEngine(source.folder, source.load, source.batch_size, placement)
    engine.use(source.adapter)
    return engine


def open_engines(sources: Sequence[Source]) -> tuple[dict[str, Engine], bool]:
    """(engines by name, whether they work at the same time).

    Several models in this job have a process each where no device must be shared: on GPUs of their own,
    placed by planned memory before weights are read, or on threads of their own where there is no GPU.
    Raises UserError where they do not fit.
    """
    local = [source for source in sources if source.load.server is None]
    if len(local) < 2:
        return {source.name: open_engine(source) for source in sources}, True
    devices, threads, apart = arrange(local)
    if not apart:
        return {s.name: open_engine(s, devices.get(s.name)) for s in sources}, False
    from expertchat.engine.process import ProcessEngine

    engines = {
        source.name: ProcessEngine(source, devices.get(source.name), threads, open_engine)
        if source in local
        else open_engine(source)
        for source in sources
    }
    return engines, True


def open_copies(source: Source) -> Engine:
    """An engine on one model that uses all GPUs: as many copies as fit, each on GPUs of its own.

    Without several GPUs, or behind a server, it is what `open_engine` gives.
    """
    import torch

    if source.load.server is not None or torch.cuda.device_count() < 2:
        return open_engine(source)
    with _looking_at_gpus() as pool:
        placements = pool.submit(place_copies, source).result()
    if len(placements) == 1:
        return open_engine(source, placements[0])
    from expertchat.engine.process import ProcessEngine
    from expertchat.engine.replicas import Replicas

    return Replicas([ProcessEngine(source, devices, None, open_engine) for devices in placements])


def _looking_at_gpus() -> ProcessPoolExecutor:
    """A process for looking at GPUs, which takes some of their memory until the process ends."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def place_copies(source: Source, free: Sequence[int] | None = None) -> list[Mapping[str, int]]:
    """A GPU for each module, for each of as many copies as fit side by side.

    `free`: bytes on each GPU, None to look. Raises UserError where not even one fits.
    """
    from expertchat.engine.loading import memory_need
    from expertchat.engine.placement import gpu_free_bytes, place

    free = gpu_free_bytes() if free is None else free
    need = memory_need(source.name, source.folder, source.load, WORKING_ROWS, WORKING_TOKENS)
    for copies in range(len(free), 1, -1):
        try:
            placement = place([need] * copies, free)
        except UserError:
            continue
        if placement.side_by_side:
            return list(placement.devices)
    return list(place([need], free).devices)


def arrange(sources: Sequence[Source]) -> tuple[dict[str, Mapping[str, int]], int | None, bool]:
    """(a GPU for each module by model, threads for each model, whether no device is shared)."""
    import torch

    if torch.cuda.is_available():
        with _looking_at_gpus() as pool:
            devices, apart = pool.submit(place_on_gpus, sources).result()
            return devices, None, apart
    available = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return {}, available // len(sources) or None, available >= len(sources)


def place_on_gpus(sources: Sequence[Source]) -> tuple[dict[str, Mapping[str, int]], bool]:
    """(a GPU for each module by model, whether no GPU serves two models)."""
    from expertchat.engine.loading import memory_need
    from expertchat.engine.placement import gpu_free_bytes, place

    needs = [memory_need(s.name, s.folder, s.load, WORKING_ROWS, WORKING_TOKENS) for s in sources]
    placement = place(needs, gpu_free_bytes())
    named = {s.name: devices for s, devices in zip(sources, placement.devices, strict=True)}
    return named, placement.side_by_side
