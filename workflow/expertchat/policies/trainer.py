"""The PPO trainer: its state, and one PPO step.

The samples of a step depend only on the seed and the number of the step, so a resumed run gives the
same result as an uninterrupted one. `expertchat.policies` has a map of a PPO step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expertchat.engine.training import draw_completions, parallel
from expertchat.errors import UserError
from expertchat.policies import ppo
from expertchat.policies.passes import Passes
from expertchat.policies.rollout import Rollout, make_rollout, spoken_ids
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.seeds import seed_of
from expertchat.settings.decoding import Decoding
from expertchat.settings.ppo import PPO

# largest difference between a token's log-probability when drawn and when learned, in nats
LARGEST_GAP, HALF_PRECISION_GAP = 0.01, 1.0
UPDATE_FIGURES = (  # of a minibatch; all but the last are means over its tokens
    *("policy_loss", "value_loss", "clipped", "value_clipped", "update_kl", "gradient_norm"),
)
Score = Callable[[Rollout], Tensor]  # raw scores [B] of a rollout


@dataclass(frozen=True)
class Experience:
    """A rollout with everything that the update needs; all tensors are [B, T]."""

    rollout: Rollout
    logprobs: Tensor  # of the policy that sampled the replies
    values: Tensor
    advantages: Tensor  # of PPO whitened over the rollout
    returns: Tensor


@dataclass
class TrainerState:
    """The progress of a run: what a checkpoint stores in addition to the tensors."""

    step: int = 0  # number of finished steps
    kl_coefficient: float = 0.0
    stopped: bool = False  # because the KL budget is used up
    reward_mean: float = 0.0  # of the raw scores of the reference model's replies
    reward_std: float = 1.0


class PPOTrainer:
    """Trains the policy adapter of a shared backbone by PPO or its kin, with PPO also the value head."""

    def __init__(
        self,
        backbone: SharedBackbone,
        tokenizer,
        prompts: Sequence[list[int]],
        settings: PPO,
        decoding: Decoding,
        seed: int,
        batch_size: int,
        score: Score | None = None,
        extra: Callable[[Rollout], Tensor] | None = None,
    ):
        """`prompts` are token ids. `batch_size` is the number of rows in one forward pass; it affects
        memory and speed only, and is halved where memory runs out. `score` gives raw scores; None: those
        of the backbone's reward model. `extra` gives rewards [B] that are added to them.
        """
        self.backbone, self.tokenizer, self.prompts = backbone, tokenizer, prompts
        self.settings, self.decoding, self.seed = settings, decoding, seed
        self.passes = Passes(batch_size, settings.replies_per_context)
        self.score, self.extra = score or backbone.scores, extra
        self.has_values = settings.algorithm == "ppo"
        self.parameters = backbone.trainable(self.has_values)
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=settings.learning_rate, eps=1e-5)
        half = backbone.model.dtype == torch.float16  # whose gradients would vanish
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=half)
        self.state = TrainerState(kl_coefficient=settings.kl_coefficient)

    def train_step(self) -> dict[str, Any]:
        """Runs one PPO step: rollout, experience, update, KL coefficient. Returns its figures.

        Replies whose KL is above the budget are not learned from: they end the run.
        """
        step, began = self.state.step, time.perf_counter()
        rollout = self.collect_rollout(step + 1)  # rollout 0 is that of measure_reward_statistics
        experience, figures = self.make_experience(rollout)
        budget = self.settings.kl_budget
        if budget is not None and figures["kl"] > budget:
            self.state.stopped = True
            figures |= dict.fromkeys(("learning_rate", *UPDATE_FIGURES), 0.0)
        else:
            figures |= self.update(experience, step)
        self.adapt_kl_coefficient(figures["kl"])
        self.state.step += 1
        tokens = int(rollout.reply_mask.sum())
        return {"step": step, **figures, "tokens": tokens, "seconds": time.perf_counter() - began}

    def measure_reward_statistics(self) -> None:
        """Stores the mean and standard deviation of the raw scores of the reference model's replies.

        Replies that did not end are left out, as their scores are replaced in training; they count if
        fewer than two replies ended.
        """
        rollout = self.collect_rollout(0, reference=True)
        scores, _ = self._raw_scores(rollout)
        ended = scores[rollout.ended]
        scores = ended if len(ended) > 1 else scores
        self.state.reward_mean, self.state.reward_std = scores.mean().item(), scores.std().item()

    def collect_rollout(self, number: int, *, reference: bool = False) -> Rollout:
        """Samples `replies_per_context` replies to each prompt of rollout `number`, one after the other,
        by the policy or the reference model.

        Each pass over the prompts uses them in a new random order.
        """
        group = self.settings.replies_per_context
        contexts = self.settings.batch_size // group
        passes = number // max(1, len(self.prompts) // contexts)
        order = np.random.default_rng(seed_of(self.seed, "order", passes))
        shuffled = order.permutation(len(self.prompts))
        chosen = [shuffled[(number * contexts + i) % len(shuffled)] for i in range(contexts)]
        chosen.sort(key=lambda i: len(self.prompts[i]))  # batches need less padding
        numbers = list(range(contexts * group))  # of the replies
        prompts = [self.prompts[chosen[i // group]] for i in numbers]
        mine = self.passes.own(numbers)
        own = [prompts[i] for i in mine]
        seeds = [seed_of(self.seed, "reply", reference, number, i) for i in mine]

        def drawn():
            with self.backbone.model.disable_adapter() if reference else nullcontext():
                return draw_completions(
                    self.backbone.model,
                    self.tokenizer,
                    own,
                    seeds,
                    self.decoding,
                    self.passes.batch_size,
                    self.passes.reporting(len(own), len(prompts)),
                )

        completions = self.passes.of_all(self.passes.within_memory(drawn), len(prompts))
        spoken = [spoken_ids(c, self.decoding.stop, self.tokenizer) for c in completions]
        pad, device = self.tokenizer.pad_token_id, self.backbone.device
        return make_rollout(prompts, completions, pad, device, spoken)

    @torch.no_grad()
    def _raw_scores(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(raw scores, the part of them that the extra reward has), both [B]."""
        scores = self.passes.over(rollout, self.score)
        if self.extra is None:
            return scores, torch.zeros_like(scores)
        extra = parallel.from_first(partial(self.extra, rollout))  # it may not give the same twice
        extra = self.settings.extra_reward_weight * extra.to(scores)
        return scores + extra, extra

    @torch.no_grad()
    def make_experience(self, rollout: Rollout) -> tuple[Experience, dict[str, float]]:
        """Scores a rollout and computes its rewards, advantages and returns.

        Returns the experience and the figures of the rollout, such as the mean KL in nats per reply.
        """
        settings, state, temperature = self.settings, self.state, self.decoding.temperature
        logprobs, values = self.passes.over(rollout, self._logprobs_and_values).unbind(1)
        gap = self._require_drawn(rollout, logprobs)
        reference_logprobs = self.passes.over(
            rollout, lambda part: self.backbone.reference_logprobs(part, temperature)
        )
        raw, extra = self._raw_scores(rollout)
        scores = ppo.terminal_scores(
            raw,
            rollout.ended,
            state.reward_mean,
            state.reward_std,
            settings.no_eos_reward,
            standardise=settings.reward_scale == "standard",
        )
        lengths = rollout.reply_mask.sum(1)
        shaping = ppo.length_penalty(lengths, settings.length_penalty, settings.length_target)
        scores = scores - shaping
        for what, tensor in (("policy's", logprobs), ("reference's", reference_logprobs)):
            self._require_finite(f"{what} log-probability of a token", tensor[rollout.reply_mask > 0])
        self._require_finite("value of a token", values[rollout.reply_mask > 0])
        self._require_finite("score of a reply", raw)
        mask = rollout.reply_mask.float()
        kl = (logprobs - reference_logprobs) * mask
        rewards = ppo.token_rewards(scores, kl, mask, state.kl_coefficient)
        penalties = state.kl_coefficient * kl.sum(1)
        advantages, returns = self._advantages(rewards, values, mask, scores, penalties)
        figures = {
            "score": scores.mean().item(),
            "raw_score": raw.mean().item(),
            "extra_reward": extra.mean().item(),
            "length_penalty": shaping.mean().item(),
            "kl": kl.sum(1).mean().item(),
            "kl_coefficient": state.kl_coefficient,
            "ended": rollout.ended.float().mean().item(),
            "reply_tokens": mask.sum(1).mean().item(),
            "drawn_gap": gap,
            "entropy": -((logprobs * mask).sum() / mask.sum()).item(),
            "explained_variance": ppo.explained_variance(values, returns, mask),
            "advantage_std": advantages[rollout.reply_mask].std().item(),
        }
        return Experience(rollout, logprobs, values, advantages, returns), figures

    def _logprobs_and_values(self, rollout: Rollout) -> Tensor:
        """Log-probabilities of the reply tokens and values [B, 2, T]; without a value model 0."""
        reading = self.backbone.read(rollout, self.decoding.temperature, values=self.has_values)
        return torch.stack([reading.logprobs, reading.values], 1)

    def _advantages(
        self, rewards: Tensor, values: Tensor, mask: Tensor, scores: Tensor, penalties: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns, both [B, T]; without a value model the same for all tokens.

        `rewards` [B, T] are made of the replies' `scores` and KL `penalties`, both [B].
        """
        settings = self.settings
        if settings.algorithm == "ppo":
            advantages, returns = ppo.advantages_and_returns(
                rewards, values, mask, settings.gamma, settings.lam
            )
            return ppo.whiten(advantages, mask), returns
        group = settings.replies_per_context
        if settings.algorithm == "rloo":
            advantages = ppo.rloo_advantages(scores - penalties, group)
        else:
            advantages = ppo.grpo_advantages(scores, penalties, group)
        return advantages[:, None] * mask, (scores - penalties)[:, None] * mask

    def update(self, experience: Experience, step: int) -> dict[str, float]:
        """Trains on the experience for `epochs` passes over its minibatches.

        Returns the learning rate, and means over the updates: losses, shares of clipped tokens and
        values, the KL from the policy that drew the replies, and the norm of the gradient.
        """
        remaining = 1 - step / self.settings.steps  # linear decay of the learning rate
        rate, group = self.settings.learning_rate * remaining, self.settings.replies_per_context
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        generator = torch.Generator().manual_seed(seed_of(self.seed, "minibatches", step))
        sums = dict.fromkeys(UPDATE_FIGURES, 0.0)
        updates = 0
        for _ in range(self.settings.epochs):
            # the replies to one context stay together, so that it is read once
            contexts = torch.randperm(len(experience.values) // group, generator=generator)
            order = (contexts[:, None] * group + torch.arange(group)).flatten()
            for rows in order.split(self.settings.minibatch_size):
                for name, value in self._minibatch_update(experience, rows).items():
                    sums[name] += value
                updates += 1
        return {"learning_rate": rate} | {name: value / updates for name, value in sums.items()}

    def _minibatch_update(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """One optimizer step on the minibatch `rows`, with gradients summed over forward passes.

        Returns its figures (`UPDATE_FIGURES`). Raises UserError if the loss or a gradient is not finite;
        the parameters are then those before this minibatch.
        """
        rows = rows.to(self.backbone.device)
        sums = self.passes.within_memory(lambda: self._minibatch_gradient(experience, rows))
        sums = parallel.summed(sums)
        parallel.sum_gradients(self.parameters.values())
        self.scaler.unscale_(self.optimizer)
        most = self.settings.max_gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), math.inf if most is None else most
        )
        if self.scaler.get_scale() <= 1:  # a larger scale may be too large: such a step is left out
            self._require_finite("norm of the gradient", norm)
        sums["gradient_norm"] = norm.nan_to_num(0, 0).item()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return sums

    def _minibatch_gradient(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """Sets the gradient of this process's share of the minibatch `rows`, summed over forward passes.

        Returns its share of the figures.
        """
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        tokens = experience.rollout.reply_mask[rows].sum()
        sums = dict.fromkeys(UPDATE_FIGURES, 0.0)
        own = parallel.block(rows)
        done = self.passes.reporting(len(own), len(rows))
        for part in own.split(self.passes.batch_size) if len(own) else ():
            rollout = experience.rollout.rows(part)
            mask = rollout.reply_mask.float()
            old_logprobs, old_values, advantages, returns = (
                tensor[part, : mask.shape[1]]
                for tensor in (
                    experience.logprobs,
                    experience.values,
                    experience.advantages,
                    experience.returns,
                )
            )
            with self.backbone.training():
                reading = self.backbone.read(
                    rollout,
                    self.decoding.temperature,
                    values=self.has_values,
                    entropy=settings.entropy_coefficient > 0,
                )
                policy, clipped = ppo.policy_loss(
                    reading.logprobs, old_logprobs, advantages, settings.clip_range
                )
                value, value_clipped = torch.zeros_like(policy), torch.zeros_like(policy)
                if self.has_values:
                    value, value_clipped = ppo.value_loss(
                        reading.values, old_values, returns, settings.value_clip_range
                    )
                bonus = settings.entropy_coefficient * reading.entropies
                objective = policy + settings.value_coefficient * value - bonus
                loss = (objective * mask).sum() / tokens
                self._require_finite("loss", loss)
                self.scaler.scale(loss).backward()
            kl = ppo.update_kl(reading.logprobs.detach(), old_logprobs)
            figures = (policy, value, clipped, value_clipped, kl)
            for name, per_token in zip(UPDATE_FIGURES, figures, strict=False):
                sums[name] += ((per_token.detach() * mask).sum() / tokens).item()
            done(len(part))
        return sums

    def _require_drawn(self, rollout: Rollout, logprobs: Tensor) -> float:
        """The largest difference between the log-probabilities of the reply tokens in this pass and when
        they were drawn. Raises UserError if it is more than rounding: another text would be learned
        from than was drawn, or by another model."""
        gaps = (logprobs - rollout.drawn_logprobs).abs()[rollout.reply_mask]
        gap = gaps.max().item() if len(gaps) else 0.0
        quantized = getattr(self.backbone.model, "is_quantized", False)
        exact = not quantized and self.backbone.model.dtype == torch.float32
        limit = LARGEST_GAP if exact else HALF_PRECISION_GAP
        if gap > limit:
            raise UserError(
                f"step {self.state.step + 1}: the log-probability of a drawn token is off by {gap:.3g} "
                f"nats when it is read again, and at most {limit:g} is rounding: drawing and training "
                "do not see the same model or the same tokens; please report this with the model's name"
            )
        return gap

    def _require_finite(self, what: str, tensor: Tensor) -> None:
        """Raises UserError if a value is NaN or infinite."""
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"step {self.state.step + 1} of {self.settings.steps}: the {what} is NaN or infinite: "
                "lower ppo.learning_rate or set load.dtype to float32 (the checkpoint before this step "
                "stays)"
            )

    def adapt_kl_coefficient(self, kl: float) -> None:
        """Moves the weight of the KL penalty so that `kl`, in nats per reply, approaches its target."""
        self.state.kl_coefficient = ppo.next_kl_coefficient(
            self.state.kl_coefficient,
            kl,
            self.settings.kl_target,
            self.settings.kl_horizon,
            self.settings.batch_size,
        )
