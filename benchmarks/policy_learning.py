"""What is learned from equally many replies, by this project and by TRL, with several seeds.

python benchmarks/policy_learning.py small --trl-python PYTHON --record   a Llama of 5M random weights
python benchmarks/policy_learning.py path/to/model --steps 12 --rate 2e-3 --record   a pretrained one

PYTHON has TRL 1.12, for PPO (see policy_speed.py). The task is that of `policy_contenders`, with shorter
texts. Compared is the mean reward over the last quarter of the steps; before training it is about 2.5.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from policy_contenders import CONTENDERS, Task, run_one, small_llama
from record import markdown_table, record


def reached(model: Path, task: Task, name: str, python: str) -> tuple[float, float]:
    """The mean reward of a run's first step, and of the last quarter of its steps."""
    rewards = run_one(model, task, name, python)["rewards"]
    return rewards[0], statistics.fmean(rewards[-max(1, len(rewards) // 4) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of the model, or `small`: a Llama of 5M random weights")
    parser.add_argument("--algorithms", nargs="+", default=["ppo", "rloo", "grpo"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-2, help="learning rate of both")
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that runs TRL's PPO")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    small = arguments.model == "small"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = small_llama(Path(folder)) if small else Path(arguments.model)
        for algorithm in arguments.algorithms:
            ends: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            for seed in range(arguments.seeds):
                for name, found in ends.items():
                    task = Task(
                        algorithm,
                        prompt=16,
                        reply=8,
                        rows=64,
                        steps=arguments.steps,
                        rate=arguments.rate,
                        epochs=2 if algorithm == "ppo" else 1,
                        seed=seed,
                    )
                    other = name == "TRL" and algorithm == "ppo"
                    python = arguments.trl_python if other else sys.executable
                    first, last = reached(model, task, name, python)
                    found.append(last)
                    print(algorithm, seed, name, f"{first:.2f} {last:.2f}", flush=True)
            cells = [", ".join(f"{end:.2f}" for end in ends[name]) for name in CONTENDERS]
            ours, theirs = (statistics.fmean(ends[name]) for name in CONTENDERS)
            rows.append([algorithm, *cells, f"{ours - theirs:+.2f}"])
    body = (
        f"{'A Llama of 5 million random weights' if small else 'SmolLM2-135M-Instruct'}: "
        f"{arguments.steps} steps of {task.replies} replies of {task.reply} tokens, learning rate "
        f"{arguments.rate}, {arguments.seeds} seeds; mean reward of the last quarter of the "
        "steps. ExpertChat does not clip gradients here (`max_gradient_norm: null`), as TRL's PPO does "
        "not.\n\n" + markdown_table(["algorithm", *CONTENDERS, "difference of the means"], rows)
    )
    print(body)
    if arguments.record:
        what = "a small model" if small else "a pretrained model"
        record(f"Reward reached beside TRL, {what}", "benchmarks/policy_learning.py", body)


if __name__ == "__main__":
    main()
