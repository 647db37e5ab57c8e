"""Training the demo's models in bfloat16 and in float32: which is faster here, and which the demo uses.

Writes docs/benchmarks.md.

    python benchmarks/demo_dtype.py
"""

import argparse
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from expertchat.demo import build, optimizer
from expertchat.prompts import read_prompts
from record import markdown_table, record

PROMPTS = Path(__file__).resolve().parents[1] / "config/prompts/demo"
KNOWS = ("carpentry", "baking")


def tokens_per_second(architecture: str, bfloat16: bool, steps: int) -> float:
    """Training speed over `steps` steps, after the model is built."""
    choose = patch.object(build, "has_bfloat16", lambda: bfloat16)
    choose_optimizer = patch.object(optimizer, "has_bfloat16", lambda: bfloat16)
    with tempfile.TemporaryDirectory() as folder, choose, choose_optimizer:
        metrics = build.build_model(
            Path(folder) / "model",
            architecture=architecture,
            knows=KNOWS,
            seed=0,
            prompts=read_prompts(PROMPTS),
            steps=steps,
        )
    return metrics["tokens_per_second"]


def main() -> None:
    """Measures both models in both types, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="training steps (default: 10)")
    parser.add_argument("--print-only", action="store_true", help="do not write docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for architecture in ("llama", "mixtral"):
        half, single = (tokens_per_second(architecture, kind, arguments.steps) for kind in (True, False))
        rows.append([architecture, f"{half:,.0f}", f"{single:,.0f}", f"{single / half:.1f}"])
    chosen = "bfloat16" if optimizer.has_bfloat16() else "float32"
    head = ["model", "bfloat16, tokens/s", "float32, tokens/s", "float32 / bfloat16"]
    body = (
        f"One thread, {arguments.steps} training steps. CPU capability by torch: "
        f"{torch.backends.cpu.get_cpu_capability()}. On this processor the demo trains in {chosen}.\n\n"
        + markdown_table(head, rows)
    )
    print(body)
    if not arguments.print_only:
        record("The demo's training type", "benchmarks/demo_dtype.py", body)


if __name__ == "__main__":
    main()
