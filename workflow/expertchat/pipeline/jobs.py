"""One job: a recipe becomes a published artifact.

A script opens a job, calls the library with what the job holds, and the job publishes. Interrupted
work stays in the work folder and is found there by the next try.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.console import silence_libraries
from expertchat.errors import UserError
from expertchat.pipeline.fingerprints import code_fingerprint, outside_sample
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import (
    artifact_path,
    faults,
    manifest_path,
    publish,
    work_path,
    write_manifest,
)
from expertchat.settings.models import Load

if TYPE_CHECKING:
    from expertchat.engine.interface import Source

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "pandas", "numpy")

FETCHING = ("models", "questions")  # the stages that may use the network


@dataclass(frozen=True)
class Job:
    """What a script works with."""

    recipe: Recipe
    store: Path
    out: Path  # what is published; empty at the start
    checkpoints: Path  # survives an interruption

    @property
    def settings(self) -> dict[str, Any]:
        return self.recipe.settings

    def input(self, name: str) -> Path | None:
        """The folder of the input artifact `name`; None where the recipe has none of that name."""
        reference = self.recipe.inputs.get(name)
        return None if reference is None else artifact_path(self.store, reference)

    def inputs(self, name: str) -> list[Path]:
        """The folders of a list of input artifacts; empty where the recipe has none of that name."""
        return [artifact_path(self.store, r) for r in self.recipe.inputs.get(name, [])]

    def outside(self, name: str) -> Path | None:
        """The user's file or folder that the settings name as {path, sample}; None where they do not.

        Raises UserError where it is not what it was when the job was planned.
        """
        named = self.settings.get(name)
        if named is None:
            return None
        path = Path(named["path"])
        if outside_sample(path) != named["sample"]:
            raise UserError(
                f"{path} changed after {self.recipe.reference} was planned: "
                "start the same snakemake command again, which plans it anew"
            )
        return path

    def load(self, model: str) -> Load:
        """How that model is held in memory."""
        load = self.settings["load"][model]
        if load.get("server"):
            load = {**load, "server": load["server"] | self.recipe.runtime["server"][model]}
        return Load(**load)

    def batch_size(self, model: str) -> int:
        """Most sequences of that model in one forward pass."""
        return self.recipe.runtime["batch_size"][model]

    def source(self, model: str, folder: Path, policy: Path | None = None) -> Source:
        """What an engine on the model's artifact is opened on: with the adapter of a policy's artifact,
        else with the model's own where it has one."""
        from expertchat.engine.interface import Source  # imports numpy, which not every job needs

        own = folder / "adapter"
        adapter = policy / "adapter" if policy else own if own.exists() else None
        return Source(
            name=model,
            folder=folder / "model",
            load=self.load(model),
            batch_size=self.batch_size(model),
            adapter=adapter,
            log=self.checkpoints.parent / f"server-{model}.log",
        )

    def sources(
        self, models: Sequence[str], folders: Sequence[Path], policies: Sequence[Path] = ()
    ) -> list[Source]:
        """`source` of several models; `policies` are given for all of them or for none."""
        adapters = policies or [None] * len(models)
        return [self.source(*each) for each in zip(models, folders, adapters, strict=True)]


def parse_arguments(stage: str, description: str) -> tuple[Recipe, Path]:
    """The recipe and the store named on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "recipe", type=Path, help="results/recipes/<stage>/<id>.json, or a manifest.json"
    )
    parser.add_argument("--store", type=Path, default=Path("results"), help="default: results")
    arguments = parser.parse_args()
    try:
        data = json.loads(arguments.recipe.read_text(encoding="utf-8"))
        recipe = Recipe.from_dict(data.get("recipe", data))
    except OSError as error:
        raise UserError(f"no recipe at {arguments.recipe}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{arguments.recipe}: this is no recipe ({error!r})") from None
    if recipe.stage != stage:
        raise UserError(f"this is the script of {stage}, but the recipe is one of {recipe.stage}")
    return recipe, arguments.store


def check_code(recipe: Recipe) -> None:
    """Stops where the code changed after the job was planned: its id would lie about it."""
    if code_fingerprint(recipe.stage) != recipe.code:
        raise UserError(
            f"the code of {recipe.stage} changed after {recipe.reference} was planned: "
            "start the same snakemake command again, which plans it anew"
        )


def check_inputs(recipe: Recipe, store: Path) -> None:
    """Checks every file that the job reads against its manifest, before any GPU is used."""
    for reference in recipe.references():
        found = faults(artifact_path(store, reference))
        if found:
            raise UserError(
                f"{reference} is damaged: {'; '.join(found)}. "
                "`expertchat verify --remove` takes damaged artifacts away, "
                "and the same snakemake command then makes them again"
            )


@contextmanager
def locked(work: Path, reference: str) -> Iterator[None]:
    """Holds the work folder, so that two jobs never make one artifact at once. Waits its turn."""
    with (work / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"{reference} is being made by {file.read().strip()}: waiting", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def facts(started: float) -> dict[str, Any]:
    """Seconds, memory, versions and machine of this process, for the manifest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    torch = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch is not None else 0
    return {
        "seconds": round(time.time() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "peak_memory_bytes": peak,
        "machine": {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0)),
            "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if name in sys.modules},
    }


def _raise_terminated(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def open_job(stage: str, description: str) -> Iterator[Job]:
    """Parses the command line, checks code and inputs, yields the job, publishes what it made.

    A UserError ends the process with its sentence and exit code 1; the work folder stays.
    """
    started = time.time()
    signal.signal(signal.SIGTERM, _raise_terminated)
    silence_libraries()
    if stage not in FETCHING:
        os.environ["HF_HUB_OFFLINE"] = (
            "1"  # compute nodes have no network, and nobody should wait for it
        )
    try:
        recipe, store = parse_arguments(stage, description)
        check_code(recipe)
        check_inputs(recipe, store)
        work = work_path(store, recipe.reference)
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
        with locked(work, recipe.reference):
            if manifest_path(store, recipe.reference).exists() and not faults(
                artifact_path(store, recipe.reference)
            ):
                print(f"{recipe.reference} is already made", file=sys.stderr)
                sys.exit(0)
            made = work / "out"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            yield Job(recipe, store, made, work / "checkpoints")
            write_manifest(made, recipe, facts(started))
            publish(store, recipe, made)
        shutil.rmtree(work)
    except UserError as error:
        sys.exit(f"{stage}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{stage}: stopped; the same command goes on from the last checkpoint")
