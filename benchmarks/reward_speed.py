"""Training of a reward model on ragged dialogues beside TRL's RewardTrainer, on the same pairs.

python benchmarks/reward_speed.py path/to/model            prints the table
python benchmarks/reward_speed.py path/to/model --record   and writes it to docs/benchmarks.md

Each contender runs in a process of its own, in turns. Both train a LoRA adapter with a score head on all
pairs of four replies to each of the contexts, for one epoch, and both see all pairs of a context in one
step. The tokens are those of the pairs as RewardTrainer reads them: each reply with its context, without
padding.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contenders import ATTENTION, TRL_ON_A_CPU, run
from record import markdown_table, record

REPLIES, PAIRS, RANK, RATE = 4, 6, 8, 1e-4
CONTEXT_TOKENS, REPLY_TOKENS = (100, 400), (20, 80)  # from, to


def dialogues(contexts: int, vocabulary: int) -> tuple[dict[str, list[int]], list[dict[str, str]]]:
    """(token ids of every reply with its context, pairs), of random tokens and ragged lengths."""
    draws = random.Random(0)

    def tokens(bounds: tuple[int, int]) -> list[int]:
        return [draws.randrange(10, vocabulary) for _ in range(draws.randint(*bounds))]

    encoded, pairs = {}, []
    for context in range(contexts):
        prompt = tokens(CONTEXT_TOKENS)
        names = [f"{context}/{reply}" for reply in range(REPLIES)]
        encoded |= {name: prompt + tokens(REPLY_TOKENS) for name in names}
        for first, second in itertools.combinations(names, 2):
            pairs.append({"context_id": f"{context}", "chosen": first, "rejected": second})
    return encoded, pairs


def ours(model_folder: Path, contexts: int, batch_size: int) -> dict[str, Any]:
    """Seconds of this project's training, without loading."""
    from expertchat.console import progress_bar
    from expertchat.engine.training import load_tokenizer
    from expertchat.rewards.training import group_pairs, load_reward_model, train
    from expertchat.settings.lora import LoRA
    from expertchat.settings.models import Load
    from expertchat.settings.rewards import Rewards

    tokenizer = load_tokenizer(model_folder, Load())
    settings = Rewards(learning_rate=RATE, epochs=1, batch_size=batch_size, lora=LoRA(rank=RANK))
    reward = load_reward_model(model_folder, Load(), tokenizer.pad_token_id, settings)
    encoded, pairs = dialogues(contexts, len(tokenizer))
    grouped = group_pairs(pairs, encoded, {name: len(row) for name, row in encoded.items()})
    with tempfile.TemporaryDirectory() as folder, progress_bar(1, "training", "tokens") as bar:
        began = time.perf_counter()
        train(reward, grouped, settings, 0, Path(folder), bar)
        return {"seconds": time.perf_counter() - began}


def trl(model_folder: Path, contexts: int, batch_size: int) -> dict[str, Any]:
    """Seconds of RewardTrainer's training, without loading."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, num_labels=1, dtype="float32"
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    encoded, pairs = dialogues(contexts, len(tokenizer))
    rows = [{f"{role}_ids": encoded[pair[role]] for role in ("chosen", "rejected")} for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        arguments = RewardConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=PAIRS,
            gradient_accumulation_steps=batch_size,
            learning_rate=RATE,
            max_length=None,
            **TRL_ON_A_CPU,
        )
        trainer = RewardTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=RANK,
                task_type="SEQ_CLS",
                target_modules=ATTENTION,
                modules_to_save=["score"],
            ),
        )
        began = time.perf_counter()
        trainer.train()
        return {"seconds": time.perf_counter() - began}


CONTENDERS = {"ExpertChat": ours, "RewardTrainer": trl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4, help="contexts per step")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each contender, in turns")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = CONTENDERS[arguments.one](arguments.model, arguments.contexts, arguments.batch_size)
        print(json.dumps(found))
        return
    from transformers import AutoTokenizer

    encoded, pairs = dialogues(arguments.contexts, len(AutoTokenizer.from_pretrained(arguments.model)))
    tokens = sum(len(encoded[pair[role]]) for pair in pairs for role in ("chosen", "rejected"))
    command = [sys.executable, __file__, str(arguments.model)]
    command += ["--contexts", f"{arguments.contexts}", "--batch-size", f"{arguments.batch_size}"]
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.repeats):
        for name in CONTENDERS:
            runs[name].append(run([*command, "--one", name]))
    speed = {n: tokens / statistics.median(r["seconds"] for r in own) for n, own in runs.items()}
    peak = {n: max(r["peak_bytes"] for r in own) / 2**30 for n, own in runs.items()}
    rows = [
        [name, f"{speed[name]:,.0f}", f"{speed[name] / speed['RewardTrainer']:.2f}", f"{peak[name]:.2f}"]
        for name in CONTENDERS
    ]
    body = (
        f"{arguments.contexts} contexts of {CONTEXT_TOKENS[0]} to {CONTEXT_TOKENS[1]} tokens, {REPLIES} "
        f"replies of {REPLY_TOKENS[0]} to {REPLY_TOKENS[1]} to each, all {len(pairs)} pairs once; "
        f"float32, LoRA of rank {RANK}, {arguments.batch_size} contexts per step; median of "
        f"{arguments.repeats} runs in turns. The ratio is to be at least 1.5, better 2.\n\n"
        + markdown_table(["contender", "tokens/s of the pairs", "ratio", "peak GiB"], rows)
    )
    print(body)
    if arguments.record:
        record("Training of reward models beside TRL", "benchmarks/reward_speed.py", body)


if __name__ == "__main__":
    main()
