"""Kills at random moments of training: SFT, a reward model and a policy, each resumed until it ends.

python tests/faults/training_kills.py             200 kills; needs tests/ and benchmarks/ in PYTHONPATH
python tests/faults/training_kills.py --kills 20  fewer

A training of a small model is killed several times at random moments, and started again each time. What
it makes is compared, byte by byte, with what the same training makes without interruption. Checkpoints
are written all the time, so that many kills fall into one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small_policy
import test_rewards
import test_sft
import torch
from conftest import save_random_model, small_tokenizer
from expertchat import checkpoints
from expertchat.policies.running import train as train_policy
from expertchat.settings.lora import LoRA

KILLS_OF_A_RUN = 5
REWARDS = {"epochs": 1, "lora": LoRA(rank=2)}


def sft(given: Path, folder: Path) -> None:
    settings = test_sft.TUNING.model_copy(update={"epochs": 2})
    test_sft.tune(given / "model", given / "instructions", folder, settings)


def rewards(given: Path, folder: Path) -> None:
    test_rewards.train(given / "model", folder, shuffled=False, changed=REWARDS, rated=given / "rated")


def policies(given: Path, folder: Path) -> None:
    backbone = small_policy.make_backbone(given / "model", [given / "reward"])
    trainer = small_policy.make_trainer(backbone, given / "model")
    train_policy(trainer, "policy", folder / "checkpoints", folder / "out")


TRAININGS: dict[str, Callable[[Path, Path], None]] = {
    "sft": sft,
    "rewards": rewards,
    "policies": policies,
}


def prepare(given: Path) -> None:
    """Writes a small model and what the trainings learn from."""
    for name in ("instructions", "rated"):
        (given / name).mkdir()
    save_random_model("llama", small_tokenizer(), given / "model")
    test_sft.write_instructions(given / "instructions")
    test_rewards.artifacts(given / "rated", np.random.default_rng(0))
    small_policy.make_reward_model(given / "model", given / "reward")


def in_child(function: Callable[..., None], *arguments: object) -> int:
    """The pid of a new process that runs the function. Its output goes to a file of its own."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(f"{tempfile.gettempdir()}/training-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        checkpoints.INTERVAL = 0.0
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def log_of(pid: int) -> Path:
    """The output of a process of `in_child`."""
    return Path(tempfile.gettempdir()) / f"training-{pid}.log"


def begin(what: str, given: Path, folder: Path) -> int:
    """Starts a training, as a job would: what it had checkpointed stays, what it had made does not."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for name in ("out", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return in_child(TRAININGS[what], given, folder)


def end(pid: int) -> str | None:
    """Waits for a training; its error, if it fails."""
    _, status = os.waitpid(pid, 0)
    log = log_of(pid)
    words = log.read_text(errors="replace")[-1500:] if log.exists() else ""
    log.unlink(missing_ok=True)
    return None if status == 0 else words or f"it ended with {status}"


def content(folder: Path) -> dict[str, bytes]:
    """The files that a training made."""
    made = folder / "out"
    return {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Original:
    """A training without interruption: its files, and its duration in seconds."""

    files: dict[str, bytes]
    seconds: float


def uninterrupted(what: str, given: Path, folder: Path) -> Original:
    """Runs a training to its end."""
    began = time.monotonic()
    error = end(begin(what, given, folder))
    if error is not None:
        raise RuntimeError(f"{what}: {error}")
    return Original(content(folder), time.monotonic() - began)


def try_run(what: str, given: Path, original: Original, kills: int, seed: int) -> str | None:
    """What went wrong in a training that is killed `kills` times; None if it made the same bytes."""
    draws = random.Random(f"{what} {seed}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(kills):
            pid = begin(what, given, folder)
            time.sleep(draws.uniform(0, original.seconds))
            os.kill(pid, signal.SIGKILL)
            end(pid)
        error = end(begin(what, given, folder))
        if error is not None:
            return f"it fails when it is started again: {error}"
        found = content(folder)
    names = {*found, *original.files}
    other = sorted(name for name in names if found.get(name) != original.files.get(name))
    return f"other bytes in {', '.join(other)}" if other else None


def try_kills(
    kills: int, workers: int = 2, kinds: Sequence[str] = tuple(TRAININGS)
) -> list[tuple[str, int, str | None]]:
    """(training, number of kills, what went wrong) of each run, with `kills` kills in all."""
    with tempfile.TemporaryDirectory() as name:
        given = Path(name)
        error = end(in_child(prepare, given))
        if error is not None:
            raise RuntimeError(error)
        originals = {what: uninterrupted(what, given, given / f"run-{what}") for what in kinds}
        runs = [KILLS_OF_A_RUN] * (kills // KILLS_OF_A_RUN) + [kills % KILLS_OF_A_RUN]
        tasks = [
            (what, given, originals[what], count, number)
            for number, count in enumerate(runs)
            if count
            for what in [kinds[number % len(kinds)]]
        ]
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            wrong = pool.starmap(try_run, tasks, chunksize=1)
    return [(task[0], task[3], error) for task, error in zip(tasks, wrong, strict=True)]


def table(runs: Sequence[tuple[str, int, str | None]]) -> str:
    """Kills and good ends by training, as Markdown."""
    from record import markdown_table

    rows = []
    for what in TRAININGS:
        own = [run for run in runs if run[0] == what]
        good = sum(error is None for _, _, error in own)
        rows.append([what, f"{sum(count for _, count, _ in own)}", f"{len(own)}", f"{good}"])
    return markdown_table(["training", "kills", "runs", "the same bytes at the end"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    runs = try_kills(arguments.kills)
    for what, count, error in runs:
        print(f"{what}, {count} kills: {error or 'the same bytes'}")
    print(table(runs))
    if arguments.record:
        from record import record

        record("Kills during training", "tests/faults/training_kills.py", table(runs))
    sys.exit(any(error is not None for _, _, error in runs))


if __name__ == "__main__":
    main()
