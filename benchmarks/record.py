"""Writes a benchmark's section of docs/benchmarks.md: its date, machine, versions and table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"
PACKAGES = ("torch", "transformers", "trl", "peft", "snakemake")


def processor() -> str:
    """The processor's name, as the system reports it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> str:
    """One line: cores, processor, memory, GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {processor()}, {memory:.0f} GiB, {', '.join(gpus) or 'no GPU'}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def record(title: str, script: str, body: str) -> None:
    """Replaces the section `title` of docs/benchmarks.md, or appends it."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    section = (
        f"## {title}\n\n{time.strftime('%Y-%m-%d')}, by `{script}`, on {machine()}; "
        f"Python {platform.python_version()}, {versions}.\n\n{body.strip()}\n"
    )
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else "# Benchmarks\n"
    head, *sections = text.split("\n## ")
    others = [part for part in sections if part.splitlines()[0] != title]
    parts = [head.rstrip(), *("## " + part.strip() for part in others), section.strip()]
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
