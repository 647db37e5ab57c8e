"""Contrastive search against greedy decoding in the same batch: the ratio of their times.

python benchmarks/contrastive.py                  about a minute; writes docs/benchmarks.md
python benchmarks/contrastive.py --models A B     on built demo models instead

The models have the demo pair's architectures and sizes and one training step: only shapes matter here.
No token ends a reply, so that both strategies make the same number of tokens. Each repeat times both
strategies one after the other, so that other load on the machine affects both, and takes their ratio.
The time of decoding alone is the time less that of replies of one token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from expertchat.demo.build import ARCHITECTURES, build_model
from expertchat.demo.world import build_world, halves
from expertchat.engine.interface import Request
from expertchat.engine.local import LocalEngine
from expertchat.prompts import read_prompts
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from record import markdown_table, record

PROMPTS = Path(__file__).resolve().parents[1] / "config/prompts/demo"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs=2, type=Path, help="folders of built models: Llama, Mixtral")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each reply")
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="threads of the process")
    parser.add_argument("--print-only", action="store_true", help="do not write docs/benchmarks.md")
    return parser.parse_args()


def build(out: Path) -> list[Path]:
    """The demo pair after one training step."""
    prompts, parts = read_prompts(PROMPTS), halves(build_world(0))
    for name, knows in zip(ARCHITECTURES, parts, strict=True):
        build_model(out / name, architecture=name, knows=knows, seed=0, prompts=prompts, steps=1)
    return [out / name for name in ARCHITECTURES]


def conversations(rows: int) -> list[list[dict[str, str]]]:
    """Conversations of five turns each, of different lengths."""
    rng, world = random.Random(0), build_world(0)
    facts = [f"{fact.entity} {fact.relation} {fact.alternatives[0]}." for fact in world.facts]
    turns = [[" ".join(rng.sample(facts, rng.randint(1, 3))) for _ in range(5)] for _ in range(rows)]
    roles = ("user", "assistant", "user", "assistant", "user")
    return [[{"role": r, "content": t} for r, t in zip(roles, talk, strict=True)] for talk in turns]


def seconds(engine: LocalEngine, messages: list, decoding: Decoding) -> float:
    """Seconds for one batch, including reading the prompts."""
    requests = [Request(m, seed) for seed, m in enumerate(messages)]
    began = time.perf_counter()
    replies = engine.generate(requests, decoding)
    took = time.perf_counter() - began
    assert {reply.tokens for reply in replies} == {decoding.max_new_tokens}
    return took


def measure(folder: Path, arguments: argparse.Namespace) -> list[list[float]]:
    """For each repeat: seconds of (greedy, contrastive), then of both with replies of one token."""
    engine = LocalEngine(folder, Load(), arguments.rows)
    engine.ends = []
    messages = conversations(arguments.rows)
    greedy = Decoding(strategy="greedy", max_new_tokens=arguments.tokens)
    contrastive = greedy.model_copy(update={"strategy": "contrastive", "top_k": arguments.top_k})
    both = [greedy, contrastive]
    tried = [*both, *(d.model_copy(update={"max_new_tokens": 1}) for d in both)]
    times = [[seconds(engine, messages, d) for d in tried] for _ in range(arguments.repeats + 1)]
    return times[1:]  # the first warms up


def spread(values: list[float]) -> str:
    """Median with the first and third quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def row(name: str, times: list[list[float]], tokens: int) -> list[str]:
    """A row of the table."""
    greedy, contrastive, *_ = zip(*times, strict=True)
    return [
        name,
        f"{tokens / statistics.median(greedy):.0f}",
        f"{tokens / statistics.median(contrastive):.0f}",
        spread([b / a for a, b, _, _ in times]),
        spread([(b - one_b) / (a - one_a) for a, b, one_a, one_b in times]),
        "at most 3 (aim 2)",
    ]


def main() -> None:
    """Builds, measures, writes."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        folders = arguments.models or build(Path(folder))
        tokens = arguments.rows * arguments.tokens
        rows = [
            row(name, measure(path, arguments), tokens)
            for name, path in zip(ARCHITECTURES, folders, strict=True)
        ]
    head = ["model", "greedy, tokens/s", "contrastive, tokens/s", "time / greedy's time"]
    head += ["the same, decoding only", "target"]
    kind = (
        "built demo models" if arguments.models else "models of the demo's sizes after one training step"
    )
    body = (
        f"{kind}, {arguments.rows} rows, {arguments.tokens} tokens each, k = {arguments.top_k}, "
        f"{arguments.threads} thread(s); no token ends a reply. Ratios: median of {arguments.repeats} "
        "repeats, with quartiles.\n\n" + markdown_table(head, rows)
    )
    body = body[0].upper() + body[1:]
    print(body)
    if not arguments.print_only:
        record("Contrastive search", "benchmarks/contrastive.py", body)


if __name__ == "__main__":
    main()
