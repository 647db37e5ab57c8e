"""The plan of the jobs to come as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from expertchat.planning.jobs import JobNeed
from expertchat.planning.machine import GIB, Machine
from expertchat.planning.memory import PARTS

HEAD = ("jobs", "stage", "models", "GPUs", "GiB", *PARTS, "at a time", "M tokens", "hours", "disk GB")


def need_lines(needs: Sequence[JobNeed], machine: Machine) -> Iterator[str]:
    """A table of the jobs to come, jobs that are alike in one line; then sums, problems and remarks."""
    if not needs:
        yield "No job that runs a model is left."
        return
    yield f"What the jobs to come need on {machine.words}, with texts as long as they may be:"
    yield ""
    groups = _alike([need for need in needs if need.memory is not None])
    rows = [list(HEAD), *(_row(group) for group in groups)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        cells = [
            text.ljust(width) if i in (1, 2, 3) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield ""
    yield from _sums(needs, machine)
    yield from _remarks(needs)


def _alike(needs: Sequence[JobNeed]) -> list[list[JobNeed]]:
    """The jobs in their order by stage, those with the same memory and work together."""

    def key(need: JobNeed) -> str:
        return repr([need.recipe.stage, need.memory, need.works])

    places: dict[str, int] = {}
    for need in needs:
        places.setdefault(key(need), len(places))
    in_order = sorted(needs, key=lambda need: places[key(need)])
    return [list(group) for _, group in groupby(in_order, key)]


def _row(group: Sequence[JobNeed]) -> list[str]:
    need = group[0]
    memory, works = need.memory, need.works or {}
    assert memory is not None  # jobs without a plan have no row
    tokens = sum(w.read + w.drawn + w.trained for one in group for w in (one.works or {}).values())
    where = " ".join(_gpus(gpus) for gpus in memory.devices.values())
    return [
        str(len(group)),
        need.recipe.stage,
        _models(need, works),
        where + (f" ({memory.copies} copies)" if memory.copies > 1 else ""),
        f"{memory.peak / GIB:.1f}" + ("!" if memory.problem else ""),
        *(f"{memory.parts.get(part, 0) / GIB:.2f}" if memory.parts.get(part) else "" for part in PARTS),
        str(memory.texts or ""),
        f"{tokens / 1e6:.1f}",
        _hours(sum(one.seconds for one in group)) + ("" if need.measured else "?"),
        f"{sum(one.disk for one in group) / 1e9:.2f}",
    ]


def _models(need: JobNeed, works: dict | Any) -> str:
    """The models' names; for jobs that models with the same weights share, those of the label."""
    names = [name for name in works if name != "model"]
    return ", ".join(names) or need.recipe.label


def _gpus(gpus: Sequence[int]) -> str:
    """ "0-3" or "2"."""
    return f"{gpus[0]}-{gpus[-1]}" if len(gpus) > 1 else str(gpus[0])


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2f}"


def _sums(needs: Sequence[JobNeed], machine: Machine) -> Iterator[str]:
    planned = [need for need in needs if need.memory is not None]
    if not planned:
        return
    hours = sum(need.seconds for need in planned) / 3600
    disk = sum(need.disk for need in planned) / 1e9
    several = f", {len(machine.gpus)} GPUs each" if len(machine.gpus) > 1 else ""
    yield f"{len(planned)} jobs, {hours:.1f} hours in all{several}, and {disk:.1f} GB on disk."
    if not all(need.measured for need in planned):
        yield "Hours with ? rest on the speed of a middling device: no such job has run on this machine."


def _remarks(needs: Sequence[JobNeed]) -> Iterator[str]:
    for problem, group in _by_text(needs, lambda need: need.problem):
        yield f"CANNOT RUN: {group[0].recipe.label}{_and_more(group)}: {problem}"
    for reason, group in _by_text(needs, lambda need: need.reason):
        yield f"not planned: {group[0].recipe.label}{_and_more(group)}: {reason}"


def _by_text(needs: Sequence[JobNeed], text_of) -> list[tuple[str, list[JobNeed]]]:
    found: dict[str, list[JobNeed]] = {}
    for need in needs:
        if text := text_of(need):
            found.setdefault(text, []).append(need)
    return list(found.items())


def _and_more(group: Sequence[JobNeed]) -> str:
    return f" and {len(group) - 1} more" if len(group) > 1 else ""


def as_json(needs: Sequence[JobNeed], machine: Machine) -> dict[str, Any]:
    """The plan as it is written to plan.json: memory in bytes, time in seconds."""
    return {
        "machine": {"gpus": list(machine.gpus), "host": machine.host, "nodes": machine.nodes},
        "jobs": [
            {
                "artifact": need.recipe.reference,
                "label": need.recipe.label,
                "reason": need.reason or None,
                "memory": need.memory and {**asdict(need.memory), "peak": need.memory.peak},
                "work": {name: asdict(work) for name, work in (need.works or {}).items()},
                "seconds": round(need.seconds, 1),
                "measured": need.measured,
                "disk": need.disk,
            }
            for need in needs
        ],
    }
