"""One job, which turns a recipe into a published artifact.

A script opens a job and calls the library with its settings and inputs. The job then publishes the
result. After an interruption the work folder stays, and the next attempt resumes from it.
"""

from __future__ import annotations

import argparse
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

from expertchat import checkpoints
from expertchat.checkpoints import TimeIsUp
from expertchat.console import label_job, silence_libraries
from expertchat.errors import UserError
from expertchat.foreign import shown, told
from expertchat.pipeline import slurm
from expertchat.pipeline.failures import explain
from expertchat.pipeline.fingerprints import code_fingerprint, user_file_fingerprint
from expertchat.pipeline.gpus import own_gpus
from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.locks import locked
from expertchat.pipeline.logs import INTERRUPTED
from expertchat.pipeline.processes import (
    PROCESSES,
    Place,
    begin,
    own_place,
    report_continues,
    report_failure,
    report_run,
    reported_run,
    run_together,
    this_script,
)
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.staging import staged
from expertchat.pipeline.store import (
    artifact_path,
    date_back,
    manifest_path,
    publish,
    restore_manifest,
    work_path,
    write_manifest,
)
from expertchat.settings.models import Load

if TYPE_CHECKING:
    from expertchat.engine.interface import Source

LOADERS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "gguf")
PACKAGES = (*LOADERS, "datasets", "pandas", "numpy")  # whose versions the manifest records

SERVER_LOG = "server-{}.log"  # in the work folder: the output of a server that the job starts
CONTINUES = 75  # exit code of a job that saved its work and goes on later (EX_TEMPFAIL of sysexits.h)
ONLINE = ("models", "instructions", "preferences", "questions")  # the stages that may use the network


@dataclass(frozen=True)
class Job:
    """The recipe of a job, its folders and its inputs."""

    recipe: Recipe
    store: Path
    out: Path  # the folder to be published, empty at the start
    checkpoints: Path  # a folder that survives an interruption
    is_one_of_several: bool = False  # whether this process trains together with others

    @property
    def settings(self) -> dict[str, Any]:
        return self.recipe.settings

    def input(self, name: str) -> Path | None:
        """The folder of the input artifact `name`, None if the recipe has no such input."""
        reference = self.recipe.inputs.get(name)
        return staged(self.store, reference) if isinstance(reference, str) else None

    def inputs(self, name: str) -> list[Path]:
        """The folders of the input artifacts `name`, empty if the recipe has no such input."""
        return [staged(self.store, r) for r in self.recipe.inputs.get(name, [])]

    def user_file(self, name: str) -> Path | None:
        """The user's file or folder under this key of the settings, None if there is none.

        Raises UserError if it changed after planning.
        """
        if name not in self.settings:
            return None
        path = Path(self.recipe.runtime["files"][name])
        if user_file_fingerprint(path) != self.settings[name]:
            raise UserError(
                f"{path} changed after {self.recipe.reference} was planned: "
                "run the same snakemake command again to plan it again"
            )
        return path

    def load(self, model: str) -> Load:
        """How the model is loaded."""
        load = self.settings["load"][model]
        if load.get("server"):
            load = {**load, "server": load["server"] | self.recipe.runtime["server"][model]}
        return Load(**load)

    def batch_size(self, model: str) -> int:
        """The maximum number of sequences of the model in one forward pass."""
        return self.recipe.runtime["batch_size"][model]

    def source(self, model: str, folder: Path, policy: Path | None = None) -> Source:
        """The source of an engine: the model's artifact, and the adapter of a policy's artifact.

        Without a policy, or if the policy is the base model, it is the model's own adapter, if it has
        one.
        """
        from expertchat.engine.interface import Source  # imports numpy, which not every job needs

        adapters = [place / "adapter" for place in (policy, folder) if place is not None]
        adapter = next((path for path in adapters if path.exists()), None)
        return Source(
            name=model,
            folder=folder / "model",
            load=self.load(model),
            batch_size=self.batch_size(model),
            adapter=adapter,
            log=self.checkpoints.parent / SERVER_LOG.format(model),
        )

    def sources(
        self, models: Sequence[str], folders: Sequence[Path], policies: Sequence[Path] = ()
    ) -> list[Source]:
        """`source` for several models. `policies` are given for all of them or for none."""
        adapters: Sequence[Path | None] = policies or [None] * len(models)
        return [self.source(*parts) for parts in zip(models, folders, adapters, strict=True)]

    def trains_together(self, model: str, full: bool = False) -> bool:
        """Whether several processes have done the job, which trains `model`: it then only has to be
        published. If the settings ask for several, they are started here.

        `full`: all of its weights are trained, and not an adapter. Raises UserError with the error of
        the process that failed first.
        """
        if self.is_one_of_several:
            return False
        processes, nodes = self.recipe.runtime["processes"], slurm.nodes_of_job()
        if processes == "auto":
            from expertchat.engine.training import processes_per_node

            folder = self.input("model")
            assert folder is not None  # what is trained is an input
            processes = processes_per_node(folder / "model", self.load(model), full, nodes)
        if processes * nodes == 1:
            return False
        run_together(this_script(), processes, nodes, self.checkpoints.parent)
        return True


def parse_arguments(stage: str, description: str) -> tuple[Recipe, Path]:
    """The recipe and the store given on the command line."""
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
        raise UserError(f"{arguments.recipe}: not a recipe ({error!r})") from None
    if recipe.stage != stage:
        raise UserError(f"this script is for stage {stage}, but the recipe is for stage {recipe.stage}")
    return recipe, arguments.store


def check_code(recipe: Recipe) -> None:
    """Raises UserError if the code changed after the job was planned, as its id would then be wrong."""
    if code_fingerprint(recipe.stage) != recipe.code:
        raise UserError(
            f"the code of {recipe.stage} changed after {recipe.reference} was planned: "
            "run the same snakemake command again to plan it again"
        )


def check_inputs(recipe: Recipe, store: Path) -> None:
    """Checks every input file against its manifest, before any GPU is used."""
    for reference in recipe.references():
        damage = find_damage(artifact_path(store, reference))
        if damage:
            raise UserError(
                f"{reference} is damaged: {'; '.join(damage)}. "
                "Run `expertchat verify --remove` to remove damaged artifacts, "
                "then the same snakemake command to make them again"
            )


def describe_run(started: float) -> dict[str, Any]:
    """For the manifest: seconds since `started`, by the monotonic clock, peak memory, machine and
    versions of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kibibytes on Linux
    torch: Any = sys.modules.get("torch")
    gpus = torch.cuda.device_count() if torch is not None else 0
    return {
        "seconds": round(time.monotonic() - started, 2),
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
    """Parses the command line, checks code and inputs, yields the job and publishes its result.

    A UserError ends the process with the error's message and exit code 1, any other error with a
    sentence (`failures.explain`). The work folder stays.
    """
    work: Path | None = None
    started = time.monotonic()
    place = own_place()
    signal.signal(signal.SIGTERM, _raise_terminated)
    silence_libraries()
    if stage not in ONLINE:
        # compute nodes have no network, and attempts to connect would only delay the job
        os.environ["HF_HUB_OFFLINE"] = "1"
    checkpoints.deadline = slurm.deadline(time.time())
    try:
        recipe, store = parse_arguments(stage, description)
        label_job(recipe.label)
        check_code(recipe)
        work = work_path(store, recipe.reference)
        if place is not None:
            with _one_of_several(recipe, store, work, place) as job:
                yield job
            report_run(work, place, describe_run(started))
            return
        check_inputs(recipe, store)
        date_back(store, recipe.references())
        with locked(work, recipe.reference) as require_lock:
            (work / "checkpoints").mkdir(parents=True, exist_ok=True)
            restore_manifest(store, recipe.reference)
            if manifest_path(store, recipe.reference).exists() and not find_damage(
                artifact_path(store, recipe.reference)
            ):
                print(
                    f"{recipe.reference} is already finished; it is made again if its folder is removed",
                    file=sys.stderr,
                )
                shutil.rmtree(work, ignore_errors=True)  # others may be waiting there
                sys.exit(0)
            for log in work.glob(SERVER_LOG.format("*")):  # as the job's own log, of one attempt
                log.unlink()
            out = work / "out"
            for left_over in (out, work / PROCESSES):
                shutil.rmtree(left_over, ignore_errors=True)
            out.mkdir()
            with own_gpus():
                yield Job(recipe, store, out, work / "checkpoints")
            require_lock()
            write_manifest(out, recipe, reported_run(work) or describe_run(started), store)
            publish(store, recipe, out)
            shutil.rmtree(work, ignore_errors=True)
    except KeyboardInterrupt:
        sys.exit(f"{stage}: {INTERRUPTED}")
    except TimeIsUp:
        if place is None or work is None:
            again = "SLURM starts it again" if slurm.requeue() else "run the same command again"
            print(f"{stage}: the time limit is near, and the work is saved: {again}", file=sys.stderr)
        else:
            report_continues(work, place)
        sys.exit(CONTINUES)
    except Exception as error:
        known = isinstance(error, UserError)
        message = told(str(error)) if known else shown(explain(error, work))
        if place is None or work is None:
            sys.exit(f"{stage}: {message}")
        report_failure(work, place, message)
        sys.exit(1)


@contextmanager
def _one_of_several(recipe: Recipe, store: Path, work: Path, place: Place) -> Iterator[Job]:
    """The job in one of the processes that train together; its own process has the lock and publishes.

    What the first writes counts. The others write to folders of their own, which are dropped.
    """
    from expertchat.engine.parallel import join, leave

    begin(work, place)
    join(place.rank, place.count, place.address, place.gpu)
    folder = work if place.rank == 0 else work / PROCESSES / f"{place.rank}"
    for name in ("out", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    yield Job(recipe, store, folder / "out", folder / "checkpoints", is_one_of_several=True)
    leave()
