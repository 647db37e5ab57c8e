"""Steps of RLOO, GRPO and PPO beside those of TRL's trainers, on the same model, prompts and lengths.

python benchmarks/policy_speed.py path/to/model --record                      writes docs/benchmarks.md
python benchmarks/policy_speed.py small --algorithms ppo --trl-python PYTHON  a Llama of 5M weights

TRL's PPO is in TRL 1.12 only, which needs an environment of its own, whose PYTHON is given: the packages
of requirements.lock with trl==1.12.0 instead. Each contender runs in a process of its own, in turns
(`policy_contenders`). The first step of a run is not timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from policy_contenders import BETA, CONTENDERS, RANK, Task, run_one, small_llama
from record import markdown_table, record


def compare(model: Path, task: Task, repeats: int, trl_python: str) -> list[str]:
    """A row of the table: replies per second and peak memory of both, and their ratios."""
    found: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name, runs in found.items():
            runs.append(run_one(model, task, name, trl_python if name == "TRL" else sys.executable))
    speed, peak = {}, {}
    for name, runs in found.items():
        middle = statistics.median(second for run in runs for second in run["seconds"][1:])
        speed[name] = task.replies / middle
        peak[name] = max(run["peak_bytes"] for run in runs) / 2**30
    return [
        task.algorithm,
        *(f"{speed[name]:.2f}" for name in CONTENDERS),
        f"{speed['ExpertChat'] / speed['TRL']:.2f}",
        *(f"{peak[name]:.2f}" for name in CONTENDERS),
        f"{peak['ExpertChat'] / peak['TRL']:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of the model, or `small`: a Llama of 5M random weights")
    parser.add_argument("--rows", type=int, default=16, help="rows of a forward pass")
    parser.add_argument("--algorithms", nargs="+", default=["rloo", "grpo"])
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a run")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each contender, in turns")
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that runs TRL")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    small = arguments.model == "small"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = small_llama(Path(folder)) if small else Path(arguments.model)
        for algorithm in arguments.algorithms:
            epochs = 2 if algorithm == "ppo" else 1
            task = Task(algorithm, rows=arguments.rows, steps=arguments.steps + 1, epochs=epochs)
            rows.append(compare(model, task, arguments.repeats, arguments.trl_python))
            print(rows[-1], flush=True)
    head = ["algorithm", *(f"{name}, replies/s" for name in CONTENDERS), "ratio (at least 2)"]
    head += [*(f"{name}, GiB" for name in CONTENDERS), "ratio (at most 0.5)"]
    body = (
        f"{task.contexts} prompts of {task.prompt} tokens, {task.group} replies of {task.reply} tokens "
        f"to each, float32, LoRA of rank {RANK}, {task.rows} rows at a time, KL weight {BETA}; PPO "
        "makes two passes over the replies of a step. Median of "
        f"{arguments.steps * arguments.repeats} step(s) after the first. TRL generates by "
        "transformers, without vLLM. Memory is the peak of the process, with the interpreter and the "
        "libraries.\n\n" + markdown_table(head, rows)
    )
    print(body)
    if arguments.record:
        title = "PPO of a small model beside TRL" if small else "Policy optimization beside TRL"
        record(title, "benchmarks/policy_speed.py", body)


if __name__ == "__main__":
    main()
