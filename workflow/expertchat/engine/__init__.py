"""Inference: continuing conversations, and the probabilities of answers."""

from __future__ import annotations

from pathlib import Path

from expertchat.engine.interface import Engine
from expertchat.settings.models import Load


def open_engine(
    folder: Path, load: Load, batch_size: int, adapter: Path | None = None, log: Path | None = None
) -> Engine:
    """An engine on the model in `folder`, as its settings say, with an adapter where one is given.

    `log`: the file for what a server that is started here says; it ends with the process.
    """
    if load.server is not None:
        from expertchat.engine.server import ServerEngine

        return ServerEngine(folder, load, adapter, log)
    from expertchat.engine.local import LocalEngine

    engine = LocalEngine(folder, load, batch_size)
    engine.use(adapter)
    return engine
