"""What benchmarks share that run a preset whole: in a folder that can be kept, continued and read."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = "seconds.json"  # wall-clock seconds of the runs in a folder, by name


def snakemake(folder: Path, settings: Path, *overrides: str, targets: Sequence[str] = ()) -> None:
    """Runs an experiment with changed settings in `folder`, to its end or until `targets` are made."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--directory", str(folder)]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles/local")]
    changes = ["--config", *overrides] if overrides else []
    with (folder / "snakemake.log").open("a") as log:
        arguments = [*targets, "--configfile", str(settings), *changes]
        subprocess.run([*command, *arguments], check=True, stdout=log, stderr=log)


def timed_run(folder: Path, name: str, settings: Path, *overrides: str) -> None:
    """`snakemake`, whose seconds are added to those of earlier, interrupted runs of that name."""
    began = time.perf_counter()
    snakemake(folder, settings, *overrides)
    taken = seconds_of_runs(folder)
    taken[name] = taken.get(name, 0) + time.perf_counter() - began
    (folder / SECONDS).write_text(json.dumps(taken))


def seconds_of_runs(folder: Path) -> dict[str, float]:
    """The seconds of the runs in `folder`, by name."""
    path = folder / SECONDS
    return json.loads(path.read_text()) if path.exists() else {}


def with_mmlu(folder: Path) -> str:
    """The changed setting that measures MMLU with three questions a subject from `folder`."""
    questions = {"source": "folder", "path": str(folder.resolve())}
    section = {"limit": 3, "shots": 0, "formulation": "cloze", "mixture": False, "questions": questions}
    return f"mmlu={json.dumps(section)}"


def main(
    description: str | None,
    inputs: Mapping[str, str],
    run: Callable[[Path, argparse.Namespace], None],
    write: Callable[[Path], None],
) -> None:
    """The command line of such a benchmark: runs in a folder, then writes what came of it.

    `inputs`: the folders that `run` needs, as options with their help.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in inputs.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    parser.add_argument("--keep", type=Path, help="run in this folder and keep it")
    parser.add_argument("--read", action="store_true", help="run nothing: read the finished run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not arguments.read:
            missing = [name for name in inputs if getattr(arguments, name) is None]
            if missing:
                parser.error(f"--{missing[0]} is required")
            run(folder, arguments)
        write(folder)
