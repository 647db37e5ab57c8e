"""Inference: continuing conversations, and the probabilities of answers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from expertchat.engine.interface import Engine
from expertchat.settings.models import Load

WORKING_ROWS, WORKING_TOKENS = 4, 2048  # that a placement must leave room for


@dataclass(frozen=True)
class Source:
    """What an engine is opened on.

    `folder` holds the model, `adapter` peft's files; `log` is the file for what a server that is
    started here says.
    """

    name: str
    folder: Path
    load: Load
    batch_size: int
    adapter: Path | None = None
    log: Path | None = None


def open_engine(source: Source, placement: Mapping[str, int] | None = None) -> Engine:
    """An engine in this process or behind a server, as the model's settings say.

    `placement`: a GPU for each of the model's modules; without it the model lies on all GPUs.
    """
    if source.load.server is not None:
        from expertchat.engine.server import ServerEngine

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
        source.name: ProcessEngine(source, devices.get(source.name), threads)
        if source in local
        else open_engine(source)
        for source in sources
    }
    return engines, True


def arrange(sources: Sequence[Source]) -> tuple[dict[str, Mapping[str, int]], int | None, bool]:
    """(a GPU for each module by model, threads for each model, whether no device is shared)."""
    import torch

    if torch.cuda.is_available():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            # elsewhere, as looking at a GPU takes some of its memory until the process ends
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
