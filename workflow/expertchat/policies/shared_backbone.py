"""One frozen backbone that serves as policy, value model, reward model and reference model.

- Policy: the backbone with the policy's LoRA adapter.
- Value model: a linear head on the policy's last hidden states.
- Reward model: the backbone with the reward model's adapter, and its score head; of an ensemble, with
  one after the other.
- Reference model: the backbone with all adapters disabled.

PPO trains the policy's adapter and the value head. The value head reads the hidden states without
detaching them, so the value loss, weighted by `ppo.value_coefficient`, also changes the policy's
adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from expertchat.engine.training import (
    Reader,
    add_adapter,
    require_finite_weights,
    text_states,
    token_logprobs,
    why_whole,
    without_dropout,
)
from expertchat.errors import UserError
from expertchat.policies.ppo import token_entropies
from expertchat.policies.rollout import Rollout

LOGIT_BYTES = 64 << 20  # of the logits that are in memory at once
POLICY, REWARD = "default", "reward"  # peft saves an adapter called "default" without a subfolder


@dataclass(frozen=True)
class Reading:
    """Of the reply tokens of a rollout, all [B, T]; 0 where they were not wanted, and for padding."""

    logprobs: Tensor
    values: Tensor
    entropies: Tensor  # in nats, of the distribution that the token was drawn from


class SharedBackbone:
    """A base model with the adapters and heads of PPO. All methods return float32 tensors."""

    def __init__(
        self,
        base,
        policy: LoraConfig | Path,
        rewards: Sequence[Path],
        spread_penalty: float = 0.0,
        gradient_checkpointing: bool = False,
    ):
        """Adds the adapters and the value head to the model `base`.

        `policy` is the configuration of a new adapter, or the folder of an adapter to train further.
        `rewards` are the folders of the adapters of a reward model's ensemble, and `spread_penalty` is
        its own. `gradient_checkpointing`: whether activations are computed again for the gradient
        instead of kept. Raises UserError if an adapter does not fit.
        """
        if isinstance(policy, Path):
            self.model = add_adapter(base, policy, POLICY, trainable=True)
        else:
            self.model = get_peft_model(base, policy, adapter_name=POLICY)
        hidden = base.config.get_text_config().hidden_size
        self.value_head = torch.nn.Linear(hidden, 1, device=base.device, dtype=torch.float32)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.score_weights = {
            f"{REWARD}-{number}": self._add_reward(folder, f"{REWARD}-{number}").to(base.device)
            for number, folder in enumerate(rewards, 1)
        }
        self.spread_penalty = spread_penalty
        self.model.set_adapter(POLICY)
        without_dropout(self.model)  # the first ratio of new to old probabilities must be 1
        self.model.eval()
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.reader = Reader(0, why_whole(self.model))

    def _add_reward(self, folder: Path, name: str) -> Tensor:
        """Loads the adapter of a reward model under a name. Returns its score head [1, hidden]."""
        weights = load_file(folder / "adapter_model.safetensors")
        heads = [name for name in weights if name.endswith("score.weight")]
        if len(heads) != 1:
            raise UserError(f"{folder}: a reward model must have one score head; this has {len(heads)}")
        require_finite_weights(weights.items(), folder)
        score = weights.pop(heads[0]).float()
        config = PeftConfig.from_pretrained(folder)
        config.modules_to_save, config.task_type, config.inference_mode = None, None, True
        self.model.add_adapter(name, config)
        result = set_peft_model_state_dict(self.model, weights, adapter_name=name)
        if result.unexpected_keys:
            raise UserError(
                f"{folder}: this reward model has weights for layers that the model does not have: "
                + ", ".join(result.unexpected_keys[:3])
            )
        return score

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs."""
        return self.model.device

    def trainable(self, values: bool = True) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name: the policy adapter's and, with `values`, the value
        head's."""
        adapter = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not values:
            return adapter
        return adapter | {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}

    @contextmanager
    def _reward_adapter(self, name: str):
        """Uses a reward model's adapter in place of the policy's."""
        self.model.set_adapter(name)
        try:
            yield
        finally:
            self.model.set_adapter(POLICY)

    @contextmanager
    def training(self):
        """Within it, activations are computed again for the gradient, if the backbone was made so.

        The model has no dropout, so that nothing else changes.
        """
        self.model.train(self.gradient_checkpointing)
        try:
            yield
        finally:
            self.model.eval()

    def _states(
        self, rollout: Rollout, wanted: Callable[[int, int], list[int]], spoken: bool = False
    ) -> Tensor:
        """The last hidden states [B, W, hidden] under the active adapter, at W tokens of each row.

        `wanted` gives their numbers from a prompt's and a reply's length. `spoken`: of the replies as
        the reward model reads them. Neighbouring rows with the same prompt are read together.
        """
        prompts = rollout.prompt_ids()
        replies = rollout.spoken if spoken else rollout.reply_ids()
        groups = [
            [[*prompt, *reply] for _, reply in rows]
            for prompt, rows in groupby(zip(prompts, replies, strict=True), key=lambda row: row[0])
        ]
        places = [wanted(len(p), len(r)) for p, r in zip(prompts, replies, strict=True)]
        return text_states(self.model, groups, self.reader, torch.tensor(places))

    def _predicting_states(self, rollout: Rollout) -> Tensor:
        """The hidden states [B, T, hidden] that predict the reply tokens: one position before each.

        Padding has some state.
        """
        longest = rollout.reply_mask.shape[1]

        def before(prompt: int, reply: int) -> list[int]:
            return [min(prompt - 1 + i, prompt + reply - 1) for i in range(longest)]

        return self._states(rollout, before)

    def _logprobs(
        self, states: Tensor, rollout: Rollout, temperature: float, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the reply tokens from their predicting states, and with `entropy` the
        entropies of what they were drawn from, else 0; both [B, T], 0 for padding.

        The vocabulary's logits are computed for real tokens only, for a few at a time (`LOGIT_BYTES`),
        and once more for the gradient, so that those of all tokens are never in memory together.
        """
        mask = rollout.reply_mask.to(states.device)
        head = self.model.get_base_model().get_output_embeddings()
        real, tokens = states[mask], rollout.replies.to(states.device)[mask]
        size = max(1, LOGIT_BYTES // (4 * head.weight.shape[0]))

        def some(states: Tensor, tokens: Tensor) -> Tensor:
            logits = head(states)
            own = token_logprobs(logits, tokens.to(logits.device), temperature)
            spread = token_entropies(logits, temperature) if entropy else torch.zeros_like(own)
            return torch.stack([own, spread])

        parts = [
            checkpoint(some, own, drawn, use_reentrant=False) if own.requires_grad else some(own, drawn)
            for own, drawn in zip(real.split(size), tokens.split(size), strict=True)
        ]
        values = torch.cat(parts, 1)
        padding = torch.zeros(mask.shape, device=values.device)
        logprobs, entropies = (padding.masked_scatter(mask.to(values.device), row) for row in values)
        return logprobs, entropies

    def read(
        self, rollout: Rollout, temperature: float, *, values: bool = True, entropy: bool = False
    ) -> Reading:
        """What the policy makes of the reply tokens. `values` and `entropy`: whether they are wanted."""
        states = self._predicting_states(rollout)
        logprobs, entropies = self._logprobs(states, rollout, temperature, entropy)
        if not values:
            return Reading(logprobs, torch.zeros_like(logprobs), entropies)
        return Reading(logprobs, self.value_head(states.float()).squeeze(-1), entropies)

    @torch.no_grad()
    def reference_logprobs(self, rollout: Rollout, temperature: float) -> Tensor:
        """Log-probabilities [B, T] of the reply tokens under the reference model."""
        with self.model.disable_adapter():
            return self._logprobs(self._predicting_states(rollout), rollout, temperature)[0]

    @torch.no_grad()
    def scores(self, rollout: Rollout) -> Tensor:
        """The reward model's raw scores [B] of the replies, read at the last real token.

        Those of an ensemble are combined as in `rewards.scoring.combine`.
        """
        scores = []
        for name, weight in self.score_weights.items():
            with self._reward_adapter(name):
                last = self._states(rollout, lambda prompt, reply: [prompt + reply - 1], spoken=True)
            scores.append((last[:, 0].float() @ weight.T).squeeze(-1))
        table = torch.stack(scores)
        return table.mean(0) - self.spread_penalty * table.std(0, correction=0)
