"""Stage policies: PPO tunes a model's adapter on its reward model.

Each step draws replies to training contexts, scores them, and learns from them. What a step draws
follows from the seed and the step's number, so that a resumed run is the uninterrupted one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from expertchat.console import progress_bar, rate
from expertchat.engine.training import draw_completions
from expertchat.policies import ppo
from expertchat.policies.rollout import Rollout, make_rollout
from expertchat.policies.shared_backbone import POLICY, SharedBackbone
from expertchat.records import read_records, write_records
from expertchat.seeds import seed_of
from expertchat.settings.decoding import Decoding
from expertchat.settings.ppo import PPO


@dataclass(frozen=True)
class Experience:
    """A step's replies with all that learning needs, [B, T] each but for the rollout."""

    rollout: Rollout
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class TrainerState:
    """Where a run of PPO stands: what a checkpoint holds beside the tensors."""

    step: int = 0
    kl_coefficient: float = 0.0
    reward_mean: float = 0.0
    reward_std: float = 1.0


class PPOTrainer:
    """A backbone, its optimiser, and the prompts that it practises on."""

    def __init__(
        self,
        backbone: SharedBackbone,
        tokenizer,
        prompts: Sequence[list[int]],
        settings: PPO,
        decoding: Decoding,
        seed: int,
        batch_size: int,
    ):
        self.backbone, self.tokenizer, self.prompts = backbone, tokenizer, prompts
        self.settings, self.decoding, self.seed = settings, decoding, seed
        self.batch_size = batch_size
        self.parameters = backbone.trainable()
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate, eps=1e-5)
        self.state = TrainerState(kl_coefficient=settings.kl_coefficient)

    def draw(self, step: int, *, reference: bool = False) -> Rollout:
        """Replies to the step's prompts by the policy, or by the reference model."""
        order = np.random.default_rng(seed_of(self.seed, "order", step // self._steps_per_pass()))
        shuffled = order.permutation(len(self.prompts))
        first = step * self.settings.batch_size
        chosen = [shuffled[(first + i) % len(shuffled)] for i in range(self.settings.batch_size)]
        prompts = sorted((self.prompts[i] for i in chosen), key=len)  # parts of like length
        seeds = [seed_of(self.seed, "reply", reference, step, i) for i in range(len(prompts))]
        with _adapters_off(self.backbone, reference):
            completions = draw_completions(
                self.backbone.model, self.tokenizer, prompts, seeds, self.decoding, self.batch_size
            )
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        return make_rollout(prompts, completions, eos, pad, self.backbone.device)

    def _steps_per_pass(self) -> int:
        return max(1, len(self.prompts) // self.settings.batch_size)

    def calibrate(self) -> None:
        """Measures the reward model's mean and deviation on the reference's replies."""
        rollout = self.draw(0, reference=True)
        scores = self._in_parts(rollout, self.backbone.scores)
        self.state.reward_mean, self.state.reward_std = scores.mean().item(), scores.std().item()

    def _in_parts(self, rollout: Rollout, function) -> Tensor:
        """`function` of the rollout, `batch_size` rows at a time."""
        rows = torch.arange(len(rollout.ids), device=rollout.ids.device)
        return torch.cat([function(rollout.rows(part)) for part in rows.split(self.batch_size)])

    @torch.no_grad()
    def experience(self, rollout: Rollout) -> tuple[Experience, dict[str, float]]:
        """Scores a rollout. Returns what to learn from and the step's figures."""
        temperature = self.decoding.temperature
        both = self._in_parts(
            rollout,
            lambda part: torch.stack(self.backbone.logprobs_and_values(part, temperature), 1),
        )
        logprobs, values = both.unbind(1)
        reference = self._in_parts(
            rollout, lambda part: self.backbone.reference_logprobs(part, temperature)
        )
        raw = self._in_parts(rollout, self.backbone.scores)
        unfinished = self.state.reward_mean + self.settings.no_eos_reward * self.state.reward_std
        scores = torch.where(rollout.ended, raw, unfinished) - self.state.reward_mean
        if self.settings.reward_scale == "standard":
            scores = scores / max(self.state.reward_std, 1e-6)
        mask = rollout.reply_mask.float()
        kl = (logprobs - reference) * mask
        rewards = ppo.token_rewards(scores, kl, mask, self.state.kl_coefficient)
        advantages, returns = ppo.advantages_and_returns(
            rewards, values, mask, self.settings.gamma, self.settings.lam
        )
        figures = {
            "score": scores.mean().item(),
            "raw_score": raw.mean().item(),
            "kl": kl.sum(1).mean().item(),
            "kl_coefficient": self.state.kl_coefficient,
            "ended": rollout.ended.float().mean().item(),
            "reply_tokens": mask.sum(1).mean().item(),
        }
        advantages = ppo.whiten(advantages, mask)
        return Experience(rollout, logprobs, values, advantages, returns), figures

    def learn(self, experience: Experience, step: int) -> dict[str, float]:
        """The step's passes over its replies. Returns the mean losses and the share clipped."""
        rate_left = 1 - step / self.settings.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate_left
        generator = torch.Generator().manual_seed(seed_of(self.seed, "minibatches", step))
        sums = {"policy_loss": 0.0, "value_loss": 0.0, "clipped": 0.0}
        updates = 0
        for _ in range(self.settings.epochs):
            order = torch.randperm(len(experience.values), generator=generator)
            for rows in order.split(self.settings.minibatch_size):
                for name, value in self._update(experience, rows).items():
                    sums[name] += value
                updates += 1
        return {name: value / updates for name, value in sums.items()}

    def _update(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """One optimiser step on some rows, in parts that fit in memory."""
        settings = self.settings
        rows = rows.to(self.backbone.device)
        tokens = experience.rollout.reply_mask[rows].sum()
        sums = dict.fromkeys(("policy_loss", "value_loss", "clipped"), 0.0)
        for part in rows.split(self.batch_size):
            rollout = experience.rollout.rows(part)
            mask = rollout.reply_mask.float()
            logprobs, values = self.backbone.logprobs_and_values(rollout, self.decoding.temperature)
            policy, clipped = ppo.policy_loss(
                logprobs,
                experience.logprobs[part],
                experience.advantages[part],
                settings.clip_range,
            )
            value = ppo.value_loss(
                values,
                experience.values[part],
                experience.returns[part],
                settings.value_clip_range,
            )
            loss = ((policy + settings.value_coefficient * value) * mask).sum() / tokens
            loss.backward()
            for name, what in zip(sums, (policy, value, clipped), strict=True):
                sums[name] += ((what.detach() * mask).sum() / tokens).item()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def adapt_kl(self, kl: float) -> None:
        """Steers the weight of the KL penalty towards its target."""
        self.state.kl_coefficient = ppo.next_kl_coefficient(
            self.state.kl_coefficient,
            kl,
            self.settings.kl_target,
            self.settings.kl_horizon,
            self.settings.batch_size,
        )

    def save(self, path: Path) -> None:
        """Writes adapter, value head, optimiser and place in the run as one safetensors file."""
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[name] = parameter.detach().contiguous()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{name}|{key}"] = value.contiguous()
        beside = path.with_suffix(".part")
        save_file(tensors, beside, metadata={"state": json.dumps(vars(self.state))})
        os.replace(beside, path)

    def load(self, path: Path) -> None:
        """Goes back to where `save` stood."""
        with safe_open(path, framework="pt", device=str(self.backbone.device)) as file:
            self.state = TrainerState(**json.loads(file.metadata()["state"]))
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(file.get_tensor(name))
            for name in sorted(file.keys()):
                if "|" in name:
                    parameter, key = name.split("|")
                    state = self.optimizer.state[self.parameters[parameter]]
                    value = file.get_tensor(name)
                    state[key] = value.cpu() if key == "step" else value


def _adapters_off(backbone: SharedBackbone, off: bool):
    return backbone.model.disable_adapter() if off else nullcontext()


def train(trainer: PPOTrainer, label: str, checkpoints: Path, out: Path) -> None:
    """Runs PPO to its end, from the last checkpoint where there is one.

    Writes the adapter (peft's layout), value_head.safetensors, steps.parquet and TensorBoard's logs,
    which can be watched in `checkpoints` while it runs.
    """
    from torch.utils.tensorboard import SummaryWriter

    table, checkpoint = checkpoints / "steps.jsonl", checkpoints / "state.safetensors"
    rows: list[dict[str, Any]] = []
    if checkpoint.exists():
        trainer.load(checkpoint)
        rows = [row for row in read_records(table) if row["step"] < trainer.state.step]
    else:
        trainer.calibrate()
    settings, begun = trainer.settings, trainer.state.step
    writer = SummaryWriter(str(checkpoints / "tensorboard"), purge_step=begun)
    with writer, progress_bar(settings.steps, label, "steps") as progress:
        progress.update(begun)
        while trainer.state.step < settings.steps:
            row = take_step(trainer)
            rows.append(row)
            for name, value in row.items():
                writer.add_scalar(f"ppo/{name}", value, row["step"])
            made = rate(row["tokens"], row["seconds"], "tokens")
            progress.set_postfix_str(f"score {row['score']:+.2f}, KL {row['kl']:.1f}, {made}")
            progress.update()
            if trainer.state.step % settings.checkpoint_every == 0:
                write_records(table, rows)
                trainer.save(checkpoint)
    trainer.backbone.model.save_pretrained(out / "adapter", selected_adapters=[POLICY])
    heads = {n: p.detach() for n, p in trainer.backbone.value_head.named_parameters()}
    save_file(heads, out / "value_head.safetensors")
    pd.DataFrame(rows).to_parquet(out / "steps.parquet")
    shutil.move(checkpoints / "tensorboard", out / "tensorboard")


def take_step(trainer: PPOTrainer) -> dict[str, Any]:
    """One step of PPO: draw, score, learn, adapt. Returns its figures."""
    step, began = trainer.state.step, time.perf_counter()
    rollout = trainer.draw(step + 1)  # draw 0 set the rewards' zero
    experience, figures = trainer.experience(rollout)
    figures |= trainer.learn(experience, step)
    trainer.adapt_kl(figures["kl"])
    trainer.state.step += 1
    tokens = int(rollout.reply_mask.sum())
    return {"step": step, **figures, "tokens": tokens, "seconds": time.perf_counter() - began}
