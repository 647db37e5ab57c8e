"""Trains a reward model with TRL's RewardTrainer, and scores replies with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expertchat.console import progress_bar
from expertchat.engine.training import load_model, load_tokenizer, lora_config, padded
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards
from expertchat.settings.target_modules import check_target_modules


def progress_callback(label: str):
    """A callback that shows the steps of a Trainer on our progress bar, which also suits log files."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = progress_bar(state.max_steps, label, "steps")
            self.bar.update(state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}):
                self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}", refresh=False)

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    return Progress()


def train(
    model_folder: Path,
    load: Load,
    pairs: Sequence[dict[str, Any]],
    encoded: Mapping[str, list[int]],
    settings: Rewards,
    seed: int,
    checkpoints: Path,
):
    """Trains the reward model on the pairs, from the latest checkpoint if there is one.

    `encoded` holds token ids by candidate id; a pair longer than `max_length` tokens is not used.
    Returns (model, tokenizer, log history of the Trainer). Raises UserError if the model does not have
    the layers that `settings.lora` names.
    """
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model_folder, load)
    model = load_model(model_folder, load, AutoModelForSequenceClassification, num_labels=1)
    check_target_modules(
        settings.lora.target_modules, "rewards.lora.target_modules", model, str(model_folder)
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    torch.nn.init.normal_(model.score.weight, std=1 / (model.config.hidden_size + 1) ** 0.5)
    rows = [{"chosen_ids": encoded[p["chosen"]], "rejected_ids": encoded[p["rejected"]]} for p in pairs]
    gpu = torch.cuda.is_available()
    half = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            output_dir=str(checkpoints),
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            max_length=settings.max_length,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            seed=seed % 2**32,
            bf16=half or (not gpu and model.dtype == torch.bfloat16),
            fp16=gpu and not half,
            use_cpu=not gpu,
            gradient_checkpointing=gpu,
            save_strategy="steps",
            save_steps=200,
            save_total_limit=1,
            save_only_model=False,
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=gpu,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(settings.lora, task_type="SEQ_CLS", modules_to_save=["score"]),
        callbacks=[progress_callback("reward model")],
    )
    for parameter in trainer.model.parameters():
        # TRL casts the trained parameters of quantized models to bfloat16, whatever the hardware
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)  # our progress bar shows the same
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    return trainer.model.eval(), tokenizer, trainer.state.log_history


def score_head(model) -> torch.Tensor:
    """The weights [1, hidden] of a trained reward model's score head."""
    (weights,) = [p for n, p in model.named_parameters() if "score.modules_to_save" in n]
    return weights


@torch.inference_mode()
def score(model, rows: Sequence[list[int]], pad: int, batch_size: int) -> np.ndarray:
    """The reward model's scores [rows] of token ids, computed in batches of rows of similar length."""
    scores = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with progress_bar(len(rows), "scores", "replies") as progress:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            ids, mask = padded([rows[i] for i in part], pad, model.device, side="right")
            # the score head is float32, the backbone may have a smaller type
            with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
                logits = model(input_ids=ids, attention_mask=mask).logits
            scores[part] = logits.squeeze(-1).float().cpu().numpy()
            progress.update(len(part))
    return scores
