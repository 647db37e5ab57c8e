"""What PPO tunes: one frozen backbone that serves as policy, value model, reward model and reference.

A policy adapter is trained; a value head reads the policy's trunk; a reward adapter with its score
head is switched in to score replies; with all adapters off the backbone is the reference.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from expertchat.engine.training import position_ids
from expertchat.errors import UserError
from expertchat.policies.ppo import token_logprobs
from expertchat.policies.rollout import Rollout

POLICY, REWARD = "default", "reward"  # peft saves an adapter called "default" without a subfolder


class SharedBackbone:
    """The backbone with its adapters and heads. Methods return tensors in float32."""

    def __init__(self, base, policy: LoraConfig | Path, reward: Path):
        """`policy`: a configuration for a new adapter, or the folder of one to go on from."""
        if isinstance(policy, Path):
            self.model = PeftModel.from_pretrained(base, policy, POLICY, is_trainable=True)
        else:
            self.model = get_peft_model(base, policy, adapter_name=POLICY)
        hidden = base.config.get_text_config().hidden_size
        self.value_head = torch.nn.Linear(hidden, 1, device=base.device, dtype=torch.float32)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.score_weight = self._add_reward(reward).to(base.device)
        self.model.set_adapter(POLICY)
        self.model.eval()  # dropout off: the ratio of new to old probabilities must start at 1

    def _add_reward(self, folder: Path) -> Tensor:
        """Loads a reward model's adapter beside the policy's; returns its score head [1, hidden]."""
        weights = load_file(folder / "adapter_model.safetensors")
        heads = [name for name in weights if name.endswith("score.weight")]
        if len(heads) != 1:
            raise UserError(f"{folder}: it holds {len(heads)} score heads, where one is needed")
        score = weights.pop(heads[0]).float()
        config = PeftConfig.from_pretrained(folder)
        config.modules_to_save, config.task_type, config.inference_mode = None, None, True
        self.model.add_adapter(REWARD, config)
        result = set_peft_model_state_dict(self.model, weights, adapter_name=REWARD)
        if result.unexpected_keys:
            raise UserError(f"{folder}: weights that fit no layer: {result.unexpected_keys[:3]}")
        return score

    @property
    def device(self) -> torch.device:
        return self.model.device

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that PPO trains, by name: the policy adapter's and the value head's."""
        found = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        return found | {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}

    @contextmanager
    def _rewarding(self):
        self.model.set_adapter(REWARD)
        try:
            yield
        finally:
            self.model.set_adapter(POLICY)

    def _hidden(self, rollout: Rollout) -> Tensor:
        base = self.model.get_base_model()
        trunk = getattr(base, base.base_model_prefix)
        return trunk(
            input_ids=rollout.ids,
            attention_mask=rollout.mask,
            position_ids=position_ids(rollout.mask),
            use_cache=False,
        ).last_hidden_state

    def _before_replies(self, hidden: Tensor, rollout: Rollout) -> Tensor:
        """The states [B, T, hidden] from which each reply token was predicted."""
        length = rollout.reply_mask.shape[1]
        return hidden[:, -length - 1 : -1]

    def _logits(self, states: Tensor) -> Tensor:
        return self.model.get_base_model().get_output_embeddings()(states)

    def logprobs_and_values(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """The policy's log-probabilities and values of the reply tokens, both [B, T]."""
        states = self._before_replies(self._hidden(rollout), rollout)
        logprobs = token_logprobs(self._logits(states), rollout.replies, temperature)
        return logprobs, self.value_head(states.float()).squeeze(-1)

    @torch.no_grad()
    def reference_logprobs(self, rollout: Rollout, temperature: float) -> Tensor:
        """Log-probabilities [B, T] under the backbone without adapters."""
        with self.model.disable_adapter():
            states = self._before_replies(self._hidden(rollout), rollout)
            return token_logprobs(self._logits(states), rollout.replies, temperature)

    @torch.no_grad()
    def scores(self, rollout: Rollout) -> Tensor:
        """The reward model's scores [B], read at the last real token."""
        with self._rewarding():
            hidden = self._hidden(rollout)
        last = hidden.shape[1] - rollout.reply_mask.shape[1] + rollout.reply_mask.sum(1) - 1
        return (hidden[torch.arange(len(last)), last].float() @ self.score_weight.T).squeeze(-1)
