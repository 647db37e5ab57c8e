"""What stage policies makes: a tuned adapter, from dialogues and a reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig

from expertchat import chat
from expertchat.dialogues.artifact import DIALOGUES
from expertchat.dialogues.contexts import context_messages, contexts_of
from expertchat.engine.training import check_lengths, load_model, load_tokenizer, lora_config
from expertchat.policies.outcome import write_outcome
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.policies.trainer import PPOTrainer, train
from expertchat.records import read_all
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO
from expertchat.splits import TRAIN


def make_policy(
    *,
    model_folder: Path,
    load: Load,
    dialogues: Sequence[Path],
    reward_model: Path,
    previous: Path | None,
    speaker: str,
    turns: Sequence[int],
    texts: Mapping[str, str],
    settings: PPO,
    decoding: Decoding,
    seed: int,
    batch_size: int,
    label: str,
    checkpoints: Path,
    out: Path,
) -> None:
    """Tunes the adapter of `speaker` by PPO; `trainer.train` says what is written to `out`.

    The prompts are the contexts of the training topics in which `speaker` has one of the numbered
    `turns`, rendered with the templates `texts`. `reward_model` and `previous` are artifacts of stages
    rewards and policies. A new adapter is trained without `previous`, the policy of the round before,
    and if that is the base model.
    """
    torch.manual_seed(seed)  # for the initial weights of a new adapter
    tokenizer = load_tokenizer(model_folder, load)
    contexts = contexts_of(read_all(dialogues, DIALOGUES), speaker, TRAIN, turns)
    prompts = [chat.encode(tokenizer, context_messages(context, texts)) for context in contexts]
    reply = decoding.max_new_tokens + decoding.grace_tokens + 1  # and the end token
    check_lengths(model_folder, max(map(len, prompts), default=0) + reply)
    model = load_model(model_folder, load)
    adapter: Path | LoraConfig
    if previous is not None and (previous / "adapter").is_dir():
        adapter = previous / "adapter"
    else:
        adapter = lora_config(settings.lora, model, "ppo.lora", str(model_folder), task_type="CAUSAL_LM")
    backbone = SharedBackbone(model, adapter, reward_model / "adapter")
    trainer = PPOTrainer(backbone, tokenizer, prompts, settings, decoding, seed, batch_size)
    train(trainer, label, checkpoints, out)
    write_outcome(out, settings.steps)
