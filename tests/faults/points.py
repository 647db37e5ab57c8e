"""Fault points: a job of a small experiment fails somewhere and is given again, by the same command.

make test-faults                  200 points and all corruptions, and writes docs/benchmarks.md
points.py --points 20             fewer; needs tests/ and benchmarks/ in PYTHONPATH

Each point is a stage, a kind of fault and a step (`inject.py`), drawn with a seed. The artifact of the
stage is taken out of a copy of a finished store, its job is run with the fault and then without, and
what it made is compared with the original, file by file.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.store import read_manifest, read_recipe, recipe_path, work_path
from expertchat.records import read_json
from small_workflow import BIN, ROOT, small_config, snakemake, support, write_config

INJECT = Path(__file__).with_name("inject.py")
SITE = Path(__file__).with_name("site")
OF_JOBS = ("kill", "after", "full", "readonly", "memory")
OF_SNAKEMAKE = ("snakemake", "both")
KINDS = (*OF_JOBS, *OF_SNAKEMAKE)
ALL_POINTS, SEED = 200, 11
TIME_LIMIT = 600  # seconds for one job


@dataclass(frozen=True)
class Point:
    """Where a job fails: the artifact that it makes, the kind of fault, and the step."""

    reference: str
    kind: str
    step: int

    def __str__(self) -> str:
        return f"{self.reference}, {self.kind} at step {self.step}"


def run_job(run: Path, reference: str, kind: str = "kill", step: int = 0):
    """Runs the job of an artifact in the folder `run`, with a fault at `step`. Returns the process."""
    stage = reference.split("/")[0]
    script = str(ROOT / f"workflow/scripts/{stage}.py")
    recipe = str(recipe_path(Path("results"), reference))
    command = [sys.executable, str(INJECT), kind, str(step), script, recipe]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    environment |= {"OMP_NUM_THREADS": str(threads_of(run / "results", reference))}
    return subprocess.run(
        command, cwd=run, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
    )


def run_snakemake(run: Path, reference: str, kind: str = "", step: int = 0):
    """Has Snakemake make the artifact in the folder `run`. A kind: it is killed at a step of the job.

    Does not wait for a job that lives on.
    """
    command = [str(BIN / "snakemake"), f"results/{reference}/manifest.json", "--cores", "2"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(run)]
    command += ["--configfile", str(run / "config.yaml")]
    environment = dict(os.environ)
    if kind:
        environment["EXPERTCHAT_FAULT"] = f"{reference.split('/')[0]}.py:{kind}:{step}"
        environment["PYTHONPATH"] = os.pathsep.join([str(SITE), os.environ.get("PYTHONPATH", "")])
    log = run / "snakemake.log"
    with log.open("w") as file:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=TIME_LIMIT
        )
    return subprocess.CompletedProcess(command, done.returncode, stderr=log.read_text())


def threads_of(store: Path, reference: str) -> int:
    """The threads that Snakemake gives to a job of the small experiment, with one per model."""
    both = reference.split("/")[0] in ("topics", "dialogues")
    return max(1, len(read_recipe(store, reference).settings.get("load", {}))) if both else 1


def without(finished: Path, run: Path, reference: str) -> None:
    """Makes `run` a copy of the finished experiment that lacks one artifact."""
    shutil.copytree(finished / "results", run / "results", symlinks=True, copy_function=os.link)
    shutil.rmtree(run / "results" / reference)
    shutil.copy(finished / "config.yaml", run)


def count_steps(finished: Path, reference: str) -> int:
    """The number of steps of the job of an artifact."""
    with tempfile.TemporaryDirectory() as folder:
        without(finished, Path(folder), reference)
        done = run_job(Path(folder), reference)
        found = re.search(r"^steps: (\d+)$", done.stderr, re.MULTILINE)
        if done.returncode != 0 or found is None:
            raise RuntimeError(f"{reference}: {done.stderr[-2000:]}")
        return int(found[1])


def try_point(finished: Path, point: Point) -> str | None:
    """What went wrong at a point; None if the second run made the same bytes and left nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        without(finished, run, point.reference)
        make = run_snakemake if point.kind in OF_SNAKEMAKE else run_job
        first = make(run, point.reference, point.kind, point.step)
        if point.kind in OF_SNAKEMAKE and first.returncode != -signal.SIGKILL:
            return f"Snakemake was not killed: {first.stderr[-1500:]}"
        if "Traceback" in first.stderr:
            return f"the job that failed shows a traceback: {first.stderr[-1500:]}"
        if point.kind in ("full", "readonly", "memory") and first.returncode not in (0, 1):
            return f"the job that failed ended with {first.returncode}"
        second = make(run, point.reference)
        if second.returncode != 0:
            return f"the same command fails: {second.stderr[-1500:]}"
        artifact = run / "results" / point.reference
        damage = find_damage(artifact)
        if damage:
            return f"the artifact is damaged: {damage[0]}"
        made, original = (
            read_manifest(folder)["files"]
            for folder in (artifact, finished / "results" / point.reference)
        )
        if made != original:
            names = sorted(name for name in {*made, *original} if made.get(name) != original.get(name))
            return f"other bytes in {', '.join(names)}"
        if work_path(run / "results", point.reference).exists():
            return "the work folder is left"
    return None


def draw_points(steps: dict[str, int], count: int, seed: int = SEED) -> list[Point]:
    """`count` points, spread evenly over artifacts and kinds, at random steps."""
    draws, points = random.Random(seed), []
    names = sorted(steps)
    for number in range(count):
        reference = names[number % len(names)]
        kind = KINDS[(number // len(names) + number) % len(KINDS)]
        points.append(Point(reference, kind, draws.randint(1, steps[reference])))
    return points


def finish(folder: Path) -> None:
    """Runs the small experiment in `folder` to its end.

    Its ratings support no reward model, so the last one is made to look supported: its policy is tuned,
    and PPO can be interrupted.
    """
    write_config(folder, small_config())
    snakemake(folder, "rewards")
    supported = sorted((folder / "results/rewards").iterdir())[-1]
    if read_json(supported / "metrics.json")["scale"] == 0:
        support(supported)
    snakemake(folder, "all")


def one_of_each_stage(finished: Path) -> list[str]:
    """The reference of one artifact of each stage but the report, whose files show times.

    It is the first of those with the most files: of policies, one that was tuned.
    """
    stages = sorted(path for path in (finished / "results").iterdir() if path.is_dir())
    found = [sorted(manifest.parent for manifest in stage.glob("*/manifest.json")) for stage in stages]
    chosen = [max(folders, key=lambda f: len(read_manifest(f)["files"])) for folders in found if folders]
    references = [f"{folder.parent.name}/{folder.name}" for folder in chosen]
    return [reference for reference in references if not reference.startswith("report/")]


def try_all(
    finished: Path, count: int, stages: Sequence[str] = (), workers: int = 2
) -> tuple[list[Point], dict[Point, str]]:
    """(the points, what went wrong at some of them). `stages`: those to try; none given: all."""
    references = [r for r in one_of_each_stage(finished) if not stages or r.split("/")[0] in stages]
    with ThreadPoolExecutor(workers) as pool:
        counts = pool.map(lambda reference: count_steps(finished, reference), references)
        steps = dict(zip(references, counts, strict=True))
        points = draw_points(steps, count)
        faults: dict[Point, str] = {}
        tried = pool.map(lambda p: try_point(finished, p), points)
        for point, wrong in zip(points, tried, strict=True):
            print(f"{point}: {wrong or 'the same bytes'}", flush=True)
            if wrong is not None:
                faults[point] = wrong
    return points, faults


def table(points: Sequence[Point], faults: dict[Point, str]) -> str:
    """Points and good ends by kind, as Markdown."""
    from record import markdown_table

    rows = []
    for kind in KINDS:
        own = [point for point in points if point.kind == kind]
        good = sum(point not in faults for point in own)
        rows.append([kind, f"{len(own)}", f"{good}"])
    stages = Counter(point.reference.split("/")[0] for point in points)
    text = "Points by stage: " + ", ".join(f"{stage} {n}" for stage, n in sorted(stages.items())) + "."
    return f"{markdown_table(['fault', 'points', 'the same bytes'], rows)}\n\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=ALL_POINTS)
    parser.add_argument("--keep", type=Path, help="run the small experiment in this folder and keep it")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        finished = arguments.keep or Path(folder)
        finish(finished)
        points, faults = try_all(finished, arguments.points)
    print(table(points, faults))
    if arguments.record:
        from record import record

        record("Faults on purpose", "tests/faults/points.py", table(points, faults))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
