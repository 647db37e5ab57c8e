"""Policy optimization by this project and by TRL, on the same model, prompts, lengths and reward.

TRL 1.16 has RLOO and GRPO; its last PPO was in 1.12, which runs in an environment of its own. A step
draws the replies of all prompts, scores them, and makes its updates on a LoRA adapter, with a penalty on
the KL from the base model. No token ends a reply. The reward is ten times the share of a reply's tokens
that are in a quarter of the vocabulary (`token_rewards`).
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from contenders import ATTENTION, TRL_ON_A_CPU, run

DOCS = Path(__file__).parents[1] / "docs"
BETA, RANK = 0.05, 8
WORDS = ("bread", "flour", "water", "salt", "oven", "steam", "crust", "crumb", "yeast", "dough", "knife")


@dataclass(frozen=True)
class Task:
    """What both sides do."""

    algorithm: str  # ppo, rloo or grpo
    contexts: int = 8
    group: int = 8  # replies to each context; 1 with ppo
    prompt: int = 300  # tokens
    reply: int = 64  # tokens
    rows: int = 16  # rows of a forward pass
    steps: int = 2
    rate: float = 1e-4  # learning rate at the start; it decays linearly
    epochs: int = 1  # passes over the replies of a step
    seed: int = 0

    @property
    def replies(self) -> int:
        return self.contexts * self.group


@dataclass(frozen=True)
class Step:
    """A step's duration and the mean reward of its replies."""

    seconds: float
    reward: float


def prompts(tokenizer, task: Task) -> list[str]:
    """Texts of the same number of tokens each."""
    texts = []
    for number in range(task.contexts):
        words = " ".join(WORDS[(number + i) % len(WORDS)] for i in range(task.prompt))
        texts.append(tokenizer.decode(tokenizer.encode(words, add_special_tokens=False)[: task.prompt]))
        found = len(tokenizer.encode(texts[-1], add_special_tokens=False))
        if found != task.prompt:
            raise SystemExit(f"a prompt has {found} tokens instead of {task.prompt}")
    return texts


def token_rewards(model) -> torch.Tensor:
    """The reward of each token [vocabulary]: 10 for the quarter of them whose output embeddings point
    most in a random direction, which a model can learn to follow, else 0."""
    embeddings = model.get_output_embeddings().weight.detach().float()
    direction = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    along = embeddings @ direction
    return 10.0 * (along > along.quantile(0.75))


def small_llama(folder: Path) -> Path:
    """A Llama of 5 million random weights, with a tokenizer trained on this project's documentation."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    texts = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=4096, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        initializer_range=0.1,  # with the usual 0.02 all tokens would be about equally likely, always
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ours(model_folder: Path, task: Task) -> list[Step]:
    """The steps of this project's trainer."""
    from expertchat.engine import training
    from expertchat.engine.training import load_model, load_tokenizer, lora_config
    from expertchat.policies.shared_backbone import SharedBackbone
    from expertchat.policies.trainer import PPOTrainer
    from expertchat.settings.decoding import Decoding
    from expertchat.settings.lora import LoRA
    from expertchat.settings.models import Load
    from expertchat.settings.ppo import PPO

    class EndlessTrainer(PPOTrainer):
        """Counts replies as ended, as TRL scores those that did not end too."""

        def collect_rollout(self, number: int, *, reference: bool = False):
            rollout = super().collect_rollout(number, reference=reference)
            return replace(rollout, ended=torch.ones_like(rollout.ended))

    load, lora = Load(), LoRA(rank=RANK, alpha=2 * RANK)
    tokenizer = load_tokenizer(model_folder, load)
    base = load_model(model_folder, load)
    torch.manual_seed(task.seed)
    config = lora_config(lora, base, "ppo.lora", "the model", task_type="CAUSAL_LM")
    settings = PPO(
        algorithm=task.algorithm,
        replies_per_context=task.group,
        batch_size=task.replies,
        minibatch_size=task.replies,
        epochs=task.epochs,
        steps=task.steps,
        learning_rate=task.rate,
        kl_coefficient=BETA,
        kl_horizon=10**9,  # as good as fixed, as TRL's is
        max_gradient_norm=None,  # as TRL's PPO
        lora=lora,
    )
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in prompts(tokenizer, task)]
    wanted = token_rewards(base)
    trainer = EndlessTrainer(
        SharedBackbone(base, config, []),
        tokenizer,
        ids,
        settings,
        Decoding(max_new_tokens=task.reply),
        task.seed,
        task.rows,
        score=lambda rollout: wanted[rollout.replies].mean(1),
    )
    with patch.object(training, "end_token_ids", return_value=[]):
        rows = [trainer.train_step() for _ in range(task.steps)]
    return [Step(row["seconds"], row["raw_score"]) for row in rows]


def trl(model_folder: Path, task: Task) -> list[Step]:
    """The steps of TRL's trainer."""
    return _trl_ppo(model_folder, task) if task.algorithm == "ppo" else _trl_groups(model_folder, task)


def _trl_groups(model_folder: Path, task: Task) -> list[Step]:
    """Those of TRL's RLOOTrainer or GRPOTrainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    kinds = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}
    config, trainer = kinds[task.algorithm]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    wanted = token_rewards(model)
    seconds: list[float] = []
    scores: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds.append(time.perf_counter() - self.began)

    def reward(completion_ids, **_):
        found = [float(wanted[torch.tensor(ids)].mean()) for ids in completion_ids]
        scores.extend(found)
        return found

    with tempfile.TemporaryDirectory() as folder:
        arguments = config(
            output_dir=folder,
            per_device_train_batch_size=task.rows,
            gradient_accumulation_steps=task.replies // task.rows,
            num_generations=task.group,
            max_completion_length=task.reply,
            generation_kwargs={"min_new_tokens": task.reply},
            num_iterations=task.epochs,
            beta=BETA,
            learning_rate=task.rate,
            max_steps=task.steps,
            disable_dropout=True,
            seed=task.seed,
            **TRL_ON_A_CPU,
        )
        trainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": prompts(tokenizer, task)}),
            peft_config=_adapter(),
            callbacks=[Clock()],
        ).train()
    return _steps(seconds, scores, task)


def _adapter():
    from peft import LoraConfig

    return LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=ATTENTION, lora_dropout=0.0, task_type="CAUSAL_LM"
    )


def _steps(seconds: list[float], scores: list[float], task: Task) -> list[Step]:
    size = task.replies
    means = [sum(scores[i : i + size]) / size for i in range(0, len(scores), size)]
    return [Step(*pair) for pair in zip(seconds, means[: len(seconds)], strict=True)]


class Counted(torch.nn.Module):
    """The reward in the form of a reward model of TRL's PPO: a backbone whose states are running means
    of the tokens' rewards after the prompt, and a head that passes them on."""

    base_model_prefix = "backbone"

    def __init__(self, wanted: torch.Tensor, prompt: int):
        super().__init__()
        self.wanted, self.prompt, self.score, self.calls = wanted, prompt, torch.nn.Identity(), []
        self.backbone = self.states

    def states(self, input_ids, **_) -> Any:
        rewards = self.wanted[input_ids]
        rewards[:, : self.prompt] = 0.0
        counts = torch.arange(1, input_ids.shape[1] + 1) - self.prompt
        means = rewards.cumsum(1) / counts.clamp(min=1)
        self.calls += means[:, -1].tolist()
        return type("Output", (), {"hidden_states": [means[..., None]]})


def _trl_ppo(model_folder: Path, task: Task) -> list[Step]:
    """Those of TRL's PPOTrainer, which has a value model of its own."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
    values = AutoModelForSequenceClassification.from_pretrained(
        model_folder, dtype="float32", num_labels=1
    )
    reward = Counted(token_rewards(model), task.prompt)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            ends.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            ends.append(time.perf_counter())

    def rows(batch):
        return {"input_ids": torch.tensor([row["input_ids"] for row in batch])}

    ids = [tokenizer.encode(text, add_special_tokens=False) for text in prompts(tokenizer, task)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=task.rows,
            gradient_accumulation_steps=task.replies // task.rows,
            local_rollout_forward_batch_size=task.rows,
            num_ppo_epochs=task.epochs,
            num_mini_batches=1,
            total_episodes=task.replies * task.steps,
            response_length=task.reply,
            temperature=1.0,
            kl_coef=BETA,
            learning_rate=task.rate,
            num_sample_generations=0,
            seed=task.seed,
            **TRL_ON_A_CPU,
        )
        data = Dataset.from_dict({"input_ids": [one for one in ids for _ in range(task.group)]})
        PPOTrainer(
            arguments,
            tokenizer,
            model,
            None,
            reward,
            data,
            values,
            data_collator=rows,
            eval_dataset=data,
            peft_config=_adapter(),
            callbacks=[Clock()],
        ).train()
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)]
    return _steps(seconds, reward.calls, task)


CONTENDERS = {"ExpertChat": ours, "TRL": trl}


def run_one(model: Path, task: Task, name: str, python: str) -> dict[str, Any]:
    """Runs one contender in a process of its own: {seconds, rewards, peak_bytes}, lists by step."""
    return run([python, __file__, str(model), name, json.dumps(asdict(task))])


def main() -> None:
    """One contender: a model's folder, the contender's name, and the task as JSON."""
    model, name, task = sys.argv[1:]
    steps = CONTENDERS[name](Path(model), Task(**json.loads(task)))
    print(json.dumps({"seconds": [s.seconds for s in steps], "rewards": [s.reward for s in steps]}))


if __name__ == "__main__":
    main()
