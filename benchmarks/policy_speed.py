"""Steps of RLOO and GRPO beside those of TRL's trainers, on the same model, prompts, lengths and reward.

python benchmarks/policy_speed.py path/to/model            prints the table
python benchmarks/policy_speed.py path/to/model --record   and writes it to docs/benchmarks.md

Each contender runs in a process of its own, in turns. A step draws 8 replies of 64 tokens to each of 8
prompts of 300 tokens, scores them by a function, and makes one optimizer step on a LoRA adapter, with a
penalty on the KL from the base model. No token ends a reply. The first step is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import ATTENTION, TRL_ON_A_CPU, run
from record import markdown_table, record

ALGORITHMS = ("rloo", "grpo")
CONTEXTS, GROUP, PROMPT, REPLY = 8, 8, 300, 64
BETA, RATE, RANK = 0.05, 1e-4, 8
WORDS = ("bread", "flour", "water", "salt", "oven", "steam", "crust", "crumb", "yeast", "dough", "knife")


def prompts(tokenizer) -> list[str]:
    """Texts of `PROMPT` tokens each."""
    texts = []
    for number in range(CONTEXTS):
        ids = tokenizer.encode(" ".join(WORDS[(number + i) % len(WORDS)] for i in range(PROMPT)))
        texts.append(tokenizer.decode(ids[:PROMPT]))
        found = len(tokenizer.encode(texts[-1], add_special_tokens=False))
        if found != PROMPT:
            raise SystemExit(f"a prompt has {found} tokens instead of {PROMPT}")
    return texts


def ours(model_folder: Path, algorithm: str, batch_size: int, steps: int) -> list[float]:
    """Seconds of each step of this project's trainer."""
    import torch
    from expertchat.engine import training
    from expertchat.engine.training import load_model, load_tokenizer, lora_config
    from expertchat.policies.shared_backbone import SharedBackbone
    from expertchat.policies.trainer import PPOTrainer
    from expertchat.settings.decoding import Decoding
    from expertchat.settings.lora import LoRA
    from expertchat.settings.models import Load
    from expertchat.settings.ppo import PPO

    training.end_token_ids = lambda *_: []  # type: ignore[assignment]
    load, lora = Load(), LoRA(rank=RANK, alpha=2 * RANK)
    tokenizer = load_tokenizer(model_folder, load)
    base = load_model(model_folder, load)
    config = lora_config(lora, base, "ppo.lora", "the model", task_type="CAUSAL_LM")
    settings = PPO(
        algorithm=algorithm,
        replies_per_context=GROUP,
        batch_size=CONTEXTS * GROUP,
        minibatch_size=CONTEXTS * GROUP,
        epochs=1,
        steps=steps,
        learning_rate=RATE,
        kl_coefficient=BETA,
        lora=lora,
    )
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in prompts(tokenizer)]
    generator = torch.Generator().manual_seed(0)
    trainer = PPOTrainer(
        SharedBackbone(base, config, []),
        tokenizer,
        ids,
        settings,
        Decoding(max_new_tokens=REPLY),
        0,
        batch_size,
        score=lambda rollout: torch.rand(len(rollout.ids), generator=generator),
    )
    collect = trainer.collect_rollout

    def ended(*args, **kwargs):  # TRL scores replies that did not end too
        rollout = collect(*args, **kwargs)
        return replace(rollout, ended=torch.ones_like(rollout.ended))

    trainer.collect_rollout = ended  # type: ignore[method-assign]
    return [trainer.train_step()["seconds"] for _ in range(steps)]


def trl(model_folder: Path, algorithm: str, batch_size: int, steps: int) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    import random

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[algorithm]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.began)

    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = config(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=CONTEXTS * GROUP // batch_size,
            num_generations=GROUP,
            max_completion_length=REPLY,
            generation_kwargs={"min_new_tokens": REPLY},
            beta=BETA,
            learning_rate=RATE,
            max_steps=steps,
            disable_dropout=True,
            **TRL_ON_A_CPU,
        )
        trainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: [generator.random() for _ in completions],
            train_dataset=Dataset.from_dict({"prompt": prompts(tokenizer)}),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=ATTENTION),
            callbacks=[Clock()],
        ).train()
    return seconds


CONTENDERS = {"ExpertChat": ours, "TRL": trl}


def measured(model: Path, algorithm: str, name: str, batch_size: int, steps: int) -> dict[str, Any]:
    """Runs one contender in a process of its own. Returns {seconds, peak_bytes}."""
    command = [sys.executable, __file__, str(model), "--one", algorithm, name]
    return run([*command, "--batch-size", str(batch_size), "--steps", str(steps)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of a forward pass")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a run")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each contender, in turns")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        algorithm, name = arguments.one
        seconds = CONTENDERS[name](arguments.model, algorithm, arguments.batch_size, arguments.steps + 1)
        print(json.dumps({"seconds": seconds[1:]}))
        return
    rows = []
    for algorithm in arguments.algorithms:
        found: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.repeats):
            for name in CONTENDERS:
                found[name].append(
                    measured(arguments.model, algorithm, name, arguments.batch_size, arguments.steps)
                )
        speed, peak = {}, {}
        for name, runs in found.items():
            middle = statistics.median(second for run in runs for second in run["seconds"])
            speed[name] = CONTEXTS * GROUP / middle
            peak[name] = max(run["peak_bytes"] for run in runs) / 2**30
        rows.append(
            [
                algorithm,
                *(f"{speed[name]:.2f}" for name in CONTENDERS),
                f"{speed['ExpertChat'] / speed['TRL']:.2f}",
                *(f"{peak[name]:.2f}" for name in CONTENDERS),
                f"{peak['ExpertChat'] / peak['TRL']:.2f}",
            ]
        )
        print(rows[-1], flush=True)
    head = ["algorithm", *(f"{name}, replies/s" for name in CONTENDERS), "ratio (at least 2)"]
    head += [*(f"{name}, GiB" for name in CONTENDERS), "ratio (at most 0.5)"]
    body = (
        f"{CONTEXTS} prompts of {PROMPT} tokens, {GROUP} replies of {REPLY} tokens to each, float32, "
        f"LoRA of rank {RANK}, {arguments.batch_size} rows at a time, KL weight {BETA}; median of "
        f"{arguments.steps * arguments.repeats} step(s) after the first. TRL generates by transformers, "
        "without vLLM. Memory is the peak of the process, with the interpreter and the libraries.\n\n"
        + markdown_table(head, rows)
    )
    print(body)
    if arguments.record:
        record("Policy optimization beside TRL", "benchmarks/policy_speed.py", body)


if __name__ == "__main__":
    main()
