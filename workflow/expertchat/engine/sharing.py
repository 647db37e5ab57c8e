"""One model in memory for several names that have the same weights, each with an adapter of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from expertchat.engine.interface import (
    Engine,
    Lengths,
    OnQuestions,
    OnReplies,
    Pieces,
    Question,
    Reply,
    Request,
    Source,
    ignore,
)
from expertchat.settings.decoding import Decoding


def group_by_weights(sources: Sequence[Source]) -> list[list[Source]]:
    """The sources in groups that can share an engine, in order: same folder, loaded in the same way.

    Models behind servers share nothing.
    """
    groups: dict[tuple, list[Source]] = {}
    for source in sources:
        load = source.load.model_dump_json(exclude={"batch_size"})
        key = (source.name,) if source.load.server else (source.folder.resolve(), load)
        groups.setdefault(key, []).append(source)
    return list(groups.values())


def as_one_source(group: Sequence[Source]) -> Source:
    """The source of the engine that the group shares: its first one, with the names of all."""
    names = " and ".join(source.name for source in group)
    return replace(group[0], name=names, batch_size=min(source.batch_size for source in group))


def share(engine: Engine, group: Sequence[Source]) -> dict[str, Engine]:
    """An engine for each name of the group, all on the weights of `engine`.

    Names with the same adapter, or all without one, get the same engine, so that one call can do the
    work of both (`interface.names_by_engine`).
    """
    adapters = [source.adapter and source.adapter.resolve() for source in group]
    if len(set(adapters)) == 1:
        return {source.name: engine for source in group}
    sharing: list[AdapterEngine] = []
    by_adapter = {a: AdapterEngine(engine, a, sharing) for a in dict.fromkeys(adapters)}
    sharing += by_adapter.values()
    return {source.name: by_adapter[a] for source, a in zip(group, adapters, strict=True)}


class AdapterEngine:
    """An `Engine` that switches an engine, which it shares with others, to its adapter for each call.

    The engines that share one must not be called at the same time.
    """

    def __init__(self, engine: Engine, adapter: Path | None, sharing: list[AdapterEngine]):
        """`sharing`: all that share `engine` and are not closed; the same list for all of them."""
        self.engine, self.adapter, self._sharing = engine, adapter, sharing

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """See `Engine.generate`."""
        self.engine.use(self.adapter)
        return self.engine.generate(requests, decoding, on_batch)

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """See `Engine.answer_logprobs`."""
        self.engine.use(self.adapter)
        return self.engine.answer_logprobs(groups, on_batch)

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """See `Engine.lengths`."""
        return self.engine.lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """See `Engine.context_tokens`."""
        return self.engine.context_tokens

    @property
    def pieces(self) -> Pieces:
        """See `Engine.pieces`."""
        return self.engine.pieces

    def use(self, adapter: Path | None) -> None:
        """See `Engine.use`. The adapters of the others stay."""
        self.adapter = adapter

    def close(self) -> None:
        """See `Engine.close`."""
        if self in self._sharing:
            self._sharing.remove(self)
            if not self._sharing:
                self.engine.close()
