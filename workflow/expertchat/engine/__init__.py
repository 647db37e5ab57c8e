"""Inference: continuing conversations, and the probabilities of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """(engines by name, whether they can work at the same time without sharing a device).

    On GPUs, models in this process are placed by their planned memory, before weights are read. Raises
    UserError where they do not fit.
    """
    local = [source for source in sources if source.load.server is None]
    placed, apart = place_on_gpus(local) if len(local) > 1 else ({}, True)
    return {source.name: open_engine(source, placed.get(source.name)) for source in sources}, apart


def place_on_gpus(sources: Sequence[Source]) -> tuple[dict[str, Mapping[str, int]], bool]:
    """(a GPU for each module by model, whether no GPU serves two models); nothing without GPUs."""
    from expertchat.engine.loading import memory_need
    from expertchat.engine.placement import gpu_free_bytes, place

    free = gpu_free_bytes()
    if not free:
        return {}, False
    needs = [memory_need(s.name, s.folder, s.load, WORKING_ROWS, WORKING_TOKENS) for s in sources]
    placement = place(needs, free)
    named = {s.name: devices for s, devices in zip(sources, placement.devices, strict=True)}
    return named, placement.side_by_side
