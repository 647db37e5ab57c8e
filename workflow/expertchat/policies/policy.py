"""What stage policies makes: a tuned adapter, from contexts and a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model

from expertchat import chat
from expertchat.contexts import OpenContext
from expertchat.engine.training import (
    check_lengths,
    load_model,
    load_tokenizer,
    lora_config,
    make_skeleton,
    planned_texts,
)
from expertchat.policies.extra_reward import extra_rewards, load_reward
from expertchat.policies.outcome import write_outcome
from expertchat.policies.running import train
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.policies.trainer import PPOTrainer
from expertchat.records import read_json
from expertchat.rewards.artifact import METRICS, adapter_folders
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO


def make_policy(
    *,
    model_folder: Path,
    load: Load,
    contexts: Sequence[OpenContext],
    reward_model: Path,
    previous: Path | None,
    extra_reward: Path | None = None,
    settings: PPO,
    decoding: Decoding,
    seed: int,
    batch_size: int,
    label: str,
    checkpoints: Path,
    out: Path,
) -> None:
    """Tunes an adapter by PPO on replies to `contexts`; `running.train` says what is written to `out`.

    `reward_model` and `previous` are artifacts of stages rewards and policies. A new adapter is trained
    without `previous`, the policy of the round before, and if that is the base model. `extra_reward` is
    a Python file of the user's (`extra_reward.load_reward`).
    """
    torch.manual_seed(seed)  # for the initial weights of a new adapter
    tokenizer = load_tokenizer(model_folder, load)
    stops = [*decoding.stop, *chat.stop_texts(tokenizer)]  # as in dialogues
    decoding = decoding.model_copy(update={"stop": stops})
    prompts = [chat.encode(tokenizer, context.messages) for context in contexts]
    prompt = max(map(len, prompts), default=0)
    reply = decoding.max_new_tokens + decoding.grace_tokens + 1  # and the end token
    check_lengths(model_folder, prompt + reply)
    model = load_model(model_folder, load)
    adapter: Path | LoraConfig
    if previous is not None and (previous / "adapter").is_dir():
        adapter = previous / "adapter"
    else:
        adapter = lora_config(settings.lora, model, "ppo.lora", str(model_folder), task_type="CAUSAL_LM")
    penalty = read_json(reward_model / METRICS)["spread_penalty"]
    again = settings.gradient_checkpointing
    again = torch.cuda.is_available() if again is None else again
    backbone = SharedBackbone(model, adapter, adapter_folders(reward_model), penalty, again)
    group = settings.replies_per_context if backbone.reader.whole is None else 1
    batch_size = planned_texts(
        backbone.model,
        with_adapter(make_skeleton(model_folder, load), adapter),
        batch_size,
        reply if group > 1 else prompt + reply,
        shared=prompt if group > 1 else 0,
        group=group,
        again=again,
    )
    extra = None if extra_reward is None else extra_rewards(load_reward(extra_reward), tokenizer)
    trainer = PPOTrainer(backbone, tokenizer, prompts, settings, decoding, seed, batch_size, extra=extra)
    train(trainer, label, checkpoints, out)
    write_outcome(out, trainer.state.step)


def with_adapter(skeleton, adapter: LoraConfig | Path):
    """The model with an adapter of this configuration, or of that of the adapter in a folder."""
    config = PeftConfig.from_pretrained(adapter) if isinstance(adapter, Path) else adapter
    config.inference_mode = False
    return get_peft_model(skeleton, config)
