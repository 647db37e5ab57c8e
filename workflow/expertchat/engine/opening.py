"""Opening engines: which kind of engine serves a model, and on which devices."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from expertchat.engine.interface import Engine, Source

# a placement must leave room for the caches and activations of this many rows of this many tokens
WORKING_ROWS, WORKING_TOKENS = 4, 2048


def open_engine(source: Source, placement: Mapping[str, int] | None = None, engines: int = 1) -> Engine:
    """An engine in this process or behind a server, depending on the model's settings.

    `placement`: a GPU for each of the model's modules; without it the model is spread over all GPUs.
    `engines`: number of engines that take turns in this process.
    """
    if source.load.server is not None:
        from expertchat.engine.server.engine import ServerEngine

        return ServerEngine(source.folder, source.load.server, source.adapter, source.log)
    from expertchat.engine.local import LocalEngine

    engine = LocalEngine(source.folder, source.load, source.batch_size, placement, engines)
    engine.use(source.adapter)
    return engine


def open_engines(sources: Sequence[Source]) -> tuple[dict[str, Engine], bool]:
    """(engines by name, whether they can work at the same time).

    Names with the same weights, loaded in the same way, share one engine. If their adapters differ, it
    switches between them, and they take turns (`sharing.py`). If all names share one engine, it uses all
    devices, as in `open_copies`.

    Several different local models get a process each if each can have GPUs of its own (chosen from the
    planned memory, before weights are read) or, on a machine without GPUs, threads of its own. Otherwise
    they share this process and take turns. Raises UserError if the models do not fit on the GPUs.
    """
    from expertchat.engine.sharing import as_one_source, group_by_weights, share

    groups = group_by_weights(sources)
    opened, side_by_side = _open_different([as_one_source(group) for group in groups])
    engines: dict[str, Engine] = {}
    for group, engine in zip(groups, opened, strict=True):
        engines |= share(engine, group)
    takes_turns = len({id(engine) for engine in engines.values()}) > len(groups)
    return {source.name: engines[source.name] for source in sources}, side_by_side and not takes_turns


def _open_different(sources: Sequence[Source]) -> tuple[list[Engine], bool]:
    """(an engine for each source, whether they can work at the same time); no two have the same weights.

    See `open_engines`.
    """
    local = [source for source in sources if source.load.server is None]
    if len(sources) == 1:
        return [open_copies(sources[0])], True
    if len(local) < 2:
        return [open_engine(source) for source in sources], True
    devices, threads, side_by_side = arrange(local)
    if not side_by_side:
        return [open_engine(s, devices.get(s.name), len(local)) for s in sources], False
    from expertchat.engine.process import ProcessEngine

    processes = 1 if devices else len(local)  # with GPUs, conversations and batches are not on the host
    return [
        ProcessEngine(source, devices.get(source.name), threads, open_engine, processes)
        if source in local
        else open_engine(source)
        for source in sources
    ], True


def open_copies(source: Source) -> Engine:
    """An engine that uses all GPUs: as many copies of the model as fit, each on GPUs of its own.

    Without several GPUs, or for a model behind a server, it is the engine of `open_engine`.
    """
    import torch

    if source.load.server is not None or torch.cuda.device_count() < 2:
        return open_engine(source)
    with _gpu_query_process() as pool:
        placements = pool.submit(place_copies, source).result()
    if len(placements) == 1:
        return open_engine(source, placements[0])
    from expertchat.engine.process import ProcessEngine
    from expertchat.engine.replicas import Replicas

    return Replicas([ProcessEngine(source, devices, None, open_engine) for devices in placements])


def _gpu_query_process() -> ProcessPoolExecutor:
    """A process that queries free GPU memory: a query itself takes GPU memory until its process ends."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def place_copies(source: Source, free: Sequence[int] | None = None) -> list[Mapping[str, int]]:
    """A GPU for each module, for each of as many copies of the model as fit side by side.

    `free`: free bytes of each GPU; None: query them. Raises UserError if not even one copy fits.
    """
    from expertchat.engine import placement
    from expertchat.engine.loading import memory_need

    free = placement.gpu_free_bytes() if free is None else free
    need = memory_need(source.name, source.folder, source.load, WORKING_ROWS, WORKING_TOKENS)
    return list(placement.place_copies(need, free))


def arrange(sources: Sequence[Source]) -> tuple[dict[str, Mapping[str, int]], int | None, bool]:
    """How several local models share this machine.

    Returns (a GPU for each module by model, CPU threads per model, whether every model has devices of
    its own). The first is empty without GPUs; the second is None with GPUs.
    """
    import torch

    if torch.cuda.is_available():
        with _gpu_query_process() as pool:
            devices, side_by_side = pool.submit(place_on_gpus, sources).result()
            return devices, None, side_by_side
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return {}, threads // len(sources) or None, threads >= len(sources)


def place_on_gpus(
    sources: Sequence[Source], free: Sequence[int] | None = None
) -> tuple[dict[str, Mapping[str, int]], bool]:
    """(a GPU for each module by model, whether no GPU is shared by two models).

    `free`: free bytes of each GPU; None: query them.
    """
    from expertchat.engine.loading import memory_need
    from expertchat.engine.placement import gpu_free_bytes, place

    needs = [memory_need(s.name, s.folder, s.load, WORKING_ROWS, WORKING_TOKENS) for s in sources]
    placement = place(needs, gpu_free_bytes() if free is None else free)
    by_name: dict[str, Mapping[str, int]] = {
        source.name: devices for source, devices in zip(sources, placement.devices, strict=True)
    }
    return by_name, placement.side_by_side
