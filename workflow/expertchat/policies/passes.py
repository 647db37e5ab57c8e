"""Passes over the rows of a rollout: a few at a time, as memory allows, and shared among processes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from expertchat.engine.training import parallel
from expertchat.policies.rollout import Rollout

Result = TypeVar("Result")


class Passes:
    """How passes over rows are made: `batch_size` rows at a time, which is halved if memory runs out.

    Of several processes that train together each makes those over its own contexts, and all have the
    results. `group` rows in a row are replies to one context.
    """

    def __init__(self, batch_size: int, group: int):
        self.batch_size, self.group = batch_size, group
        self.on_pass: Callable[[int], None] = lambda replies: None  # told of each pass over replies

    def reporting(self, own: int, rows: int) -> Callable[[int], None]:
        """A function to which passes over this process's `own` of `rows` rows are reported."""
        return parallel.for_all(self.on_pass, own, rows)

    def own(self, rows: Sequence[int]) -> list[int]:
        """The rows that this process works on."""
        contexts = [rows[i : i + self.group] for i in range(0, len(rows), self.group)]
        return [row for context in parallel.share(contexts) for row in context]

    def of_all(self, own: Sequence[Result], rows: int) -> list[Result]:
        """The results of all processes on their `own` of `rows` rows, in the order of the rows."""
        contexts = [own[i : i + self.group] for i in range(0, len(own), self.group)]
        every = parallel.gathered(contexts, math.ceil(rows / self.group))
        return [result for context in every for result in context]

    def over(self, rollout: Rollout, function: Callable[[Rollout], Tensor]) -> Tensor:
        """`function` of the rollout, computed for `batch_size` rows at a time.

        Its result is [rows], or [rows, ..., T] with a column for each of the part's reply tokens.
        """

        mine = self.own(range(len(rollout.ids)))

        def computed() -> list[Tensor]:
            results: list[Tensor] = []
            done = self.reporting(len(mine), len(rollout.ids))
            rows = torch.tensor(mine, device=rollout.ids.device)
            for part in rows.split(self.batch_size) if len(rows) else ():
                own = rollout.rows(part)
                result = function(own)
                missing = rollout.reply_mask.shape[1] - own.reply_mask.shape[1]
                if result.ndim > 1:
                    result = torch.nn.functional.pad(result, (0, missing))
                results.extend(result.cpu())
                done(len(part))
            return results

        results = self.of_all(self.within_memory(computed), len(rollout.ids))
        return torch.stack(results).to(rollout.ids.device)

    def within_memory(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, done again with half the `batch_size` each time that memory runs out."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = (self.batch_size + 1) // 2
                torch.cuda.empty_cache()
                print(f"out of memory: going on with {self.batch_size} rows at a time", file=sys.stderr)
