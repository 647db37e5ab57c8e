"""Settings of stage speeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from expertchat.settings.models import Load
from expertchat.settings.section import Section

Tokens = Annotated[int, Field(gt=0, le=1_000_000)]
Rows = Annotated[int, Field(gt=0, le=1024)]


class Variant(Section):
    """A way to load each model, where it differs from the model's own `load`.

    Example: {quantization: nf4}
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Data type of the weights, as in `load`; null: the model's own setting."""
    quantization: Literal["none", "int8", "nf4"] | None = None
    """Quantization, as in `load`; null: the model's own setting."""

    def of(self, load: Load) -> Load:
        """`load` with the keys of this variant in place of its own. A server loads as it likes."""
        return load if load.server else load.model_copy(update=self.model_dump(exclude_none=True))


def load_name(load: Load) -> str:
    """A short name of a way to load a model: "nf4", "bfloat16", "nf4-bfloat16", "auto" or "server"."""
    if load.server is not None:
        return "server"
    quantization = [load.quantization] if load.quantization != "none" else []
    dtype = [load.dtype] if load.dtype != "auto" else []
    return "-".join([*quantization, *dtype]) or "auto"


class Budget(Section):
    """What a model may need, and what counts as one sample: a prompt and its reply.

    Example: {gpu_memory_gb: 32, seconds_per_sample: 24, samples: 1300}
    """

    gpu_memory_gb: float = Field(gt=0, le=1_000_000)
    """Memory for the model, its caches and activations, in GB of 10^9 bytes."""
    seconds_per_sample: float = Field(gt=0)
    """Most seconds per sample: the time of a batch divided by its number of samples."""
    samples: int = Field(gt=0)
    """Number of samples whose hours are computed."""
    prompt_tokens: Tokens = 512
    """Length of a sample's prompt, in tokens."""
    output_tokens: Tokens = 256
    """Length of a sample's reply, in tokens."""
    batch_size: Rows = 1
    """Number of samples that are drawn together."""


class Speeds(Section):
    """Which model fits: seconds and memory of each model in each variant, over the lengths
    of prompts, the lengths of replies and the batch sizes.

    Example: {budget: {gpu_memory_gb: 16, seconds_per_sample: 10, samples: 1000}, repeats: 5}
    """

    budget: Budget
    """The budget. Its own lengths and batch size are measured too."""
    variants: list[Variant] = Field([], max_length=16)
    """Ways to load each model. {}, or an empty list: as its own `load` says. A server has one way
    only."""
    prompt_lengths: list[Tokens] = Field([64, 512, 2048], min_length=1, max_length=32)
    """Lengths of prompts, in tokens."""
    output_lengths: list[Tokens] = Field([16, 64, 256], min_length=1, max_length=32)
    """Lengths of replies, in tokens. No reply ends before."""
    batch_sizes: list[Rows] = Field([1, 4, 16], min_length=1, max_length=32)
    """Numbers of replies that are drawn together."""
    repeats: int = Field(3, gt=0, le=1000)
    """Number of timed runs of each combination, after one that is not counted."""
    quality: dict[str, float] = {}
    """How good each model is expected to be, by its name: any score, such as one from a leaderboard,
    where more is better. Empty: the accuracy on the questions of `mmlu`, if that section is given."""
    published: dict[str, float] = {}
    """Speeds in tokens per second that were published elsewhere, by the model's name; the report shows
    them next to the measured ones."""

    def loads(self, own: Load) -> list[Load]:
        """The ways to load a model whose own `load` is `own`; some may be the same."""
        return [variant.of(own) for variant in self.variants or [Variant()]]

    def cells(self) -> list[dict[str, int]]:
        """All combinations that are measured, the smallest first, each once."""
        budget = self.budget
        found = [
            {"prompt_tokens": prompt, "output_tokens": output, "batch_size": rows}
            for prompt in {*self.prompt_lengths, budget.prompt_tokens}
            for output in {*self.output_lengths, budget.output_tokens}
            for rows in {*self.batch_sizes, budget.batch_size}
        ]
        return sorted(found, key=_size)

    def recipe_settings(self) -> dict[str, Any]:
        """What decides what is measured: not the limits, which only the report compares with it."""
        return {"cells": self.cells(), "repeats": self.repeats}


def _size(cell: dict[str, int]) -> tuple[int, ...]:
    """(number of tokens in memory at the end, and the cell itself, so that the order is the same)."""
    tokens = cell["prompt_tokens"] + cell["output_tokens"]
    return cell["batch_size"] * tokens, *cell.values()
