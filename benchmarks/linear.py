"""Measures linear layers in float32: by oneDNN, as the engine does on some CPUs, and by PyTorch.

python benchmarks/linear.py --record    writes docs/benchmarks.md

The layers are those of a model: SmolLM2-135M's, unless sizes are given. `rows` is the number of tokens
that a layer gets at once: a few where tokens are drawn, hundreds where texts are read or trained on.
Both sides are measured in turn, and the shortest time of each counts, as other work can only slow it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from expertchat.engine.linear import OneDNNLinear, onednn_is_faster
from record import markdown_table, record
from torch import nn

LAYERS = {"576 x 576": (576, 576), "576 x 192": (576, 192), "576 x 1536": (576, 1536)}
HEAD = {"head, 576 x 49,152": (576, 49_152)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 512])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = []
    for name, sizes in (LAYERS | HEAD).items():
        usual = nn.Linear(*sizes, bias=False).requires_grad_(False)
        other = nn.Linear(*sizes, bias=False).requires_grad_(False)
        other.__class__ = OneDNNLinear
        for rows in arguments.rows:
            if name in HEAD and rows > 64:
                continue  # texts are read without logits of most tokens
            states = torch.randn(rows, sizes[0])
            for what, run in (("forward", forward), ("forward and backward", both_ways)):
                if what != "forward" and (name in HEAD or rows < 512):
                    continue
                ours, theirs = shortest(run, (other, usual), states, arguments.repeats)
                operations = 2 * rows * sizes[0] * sizes[1] * (1 if what == "forward" else 2)
                table.append(
                    [
                        name,
                        str(rows),
                        what,
                        f"{1e6 * ours:,.0f} us",
                        f"{1e6 * theirs:,.0f} us",
                        f"{theirs / ours:.2f}",
                        f"{operations / ours / 1e9:,.0f}",
                    ]
                )
    used = "uses" if onednn_is_faster() else "does not use"
    head = ["layer", "rows", "what", "oneDNN", "PyTorch", "ratio", "GFLOP/s of oneDNN"]
    body = (
        f"{arguments.threads} thread(s), frozen weights, shortest of {arguments.repeats} "
        f"alternating runs. The engine {used} oneDNN on this CPU.\n\n" + markdown_table(head, table)
    )
    print(body)
    if arguments.record:
        record("Linear layers in float32", "benchmarks/linear.py", body)


@torch.inference_mode()
def forward(layer: nn.Linear, states: torch.Tensor) -> None:
    layer(states)


def both_ways(layer: nn.Linear, states: torch.Tensor) -> None:
    layer(states.requires_grad_()).sum().backward()


def shortest(run: Callable, layers, states: torch.Tensor, repeats: int) -> list[float]:
    """The shortest seconds of `run` with each of the layers."""
    best = [float("inf")] * len(layers)
    for _ in range(repeats + 1):
        for number, layer in enumerate(layers):
            began = time.perf_counter()
            run(layer, states)
            best[number] = min(best[number], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main()
