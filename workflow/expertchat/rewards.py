"""Stage rewards: a reward model learns from the ratings which of two replies is the better one.

It is a LoRA adapter and a linear score head on the model that it will later train, so that policy,
reference and reward share one backbone. Training is TRL's; the loss is Bradley and Terry's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from expertchat import chat
from expertchat.dialogues import CANDIDATES, DIALOGUES, Context, context_messages
from expertchat.engine.generation import padded
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.errors import UserError
from expertchat.preferences import build_pairs, shuffle_within_contexts
from expertchat.progress import bar
from expertchat.rating_items import REPLY
from expertchat.rating_tables import OVERALL_COLUMNS, overall, read_ratings
from expertchat.records import read_all
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards
from expertchat.statistics import calibration_error, cluster_bootstrap
from expertchat.topics import HELD_OUT, TRAIN


def rated_candidates(
    folders: Sequence[Path], ratings: Sequence[Path], speaker: str, weights: Mapping[str, float]
) -> pd.DataFrame:
    """The candidate replies of the model `speaker` with their overall ratings by its partners."""
    candidates = pd.DataFrame(c for c in read_all(folders, CANDIDATES) if c["model"] == speaker)
    if candidates.empty:
        raise UserError(
            f"{speaker} has no candidate replies: none of its turns is one of dialogues.candidate_turns"
        )
    scores = overall(read_ratings(ratings, OVERALL_COLUMNS, scope=REPLY), weights)
    scores = scores.rename(columns={"item_id": "candidate_id"})
    return candidates.merge(scores[["candidate_id", "overall", "usable"]], on="candidate_id")


def encode_candidates(
    tokenizer, folders: Sequence[Path], candidates: pd.DataFrame, texts: Mapping[str, str]
) -> dict[str, list[int]]:
    """Token ids by candidate id: the prompt as the speaker saw it, its reply, and the end token."""
    dialogues = {d["dialogue_id"]: d for d in read_all(folders, DIALOGUES)}
    prompts: dict[str, list[int]] = {}
    encoded = {}
    for row in candidates.to_dict("records"):
        if row["context_id"] not in prompts:
            context = Context(dialogues[row["dialogue_id"]], row["turn"])
            prompts[row["context_id"]] = chat.encode(tokenizer, context_messages(context, texts))
        text = chat.reply_lead(tokenizer) + row["text"]
        reply = tokenizer.encode(text, add_special_tokens=False)
        encoded[row["candidate_id"]] = [*prompts[row["context_id"]], *reply, tokenizer.eos_token_id]
    return encoded


def lora_config(lora: LoRA, **kwargs):
    """The adapter's configuration for peft."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        **kwargs,
    )


def progress_callback(label: str):
    """Shows a Trainer's steps on our own bar, which logs can hold."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = bar(state.max_steps, label, "steps")
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
    """Trains the reward model on the pairs by TRL's RewardTrainer. Returns (model, tokenizer)."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, PrinterCallback
    from transformers.trainer_utils import get_last_checkpoint
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model_folder, load)
    model = load_model(model_folder, load, AutoModelForSequenceClassification, num_labels=1)
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
        # what is trained, which TRL makes bfloat16 on quantized models, whatever they run on
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)  # our bar says it
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))
    return trainer.model.eval(), tokenizer, trainer.state.log_history


def score_head(model) -> torch.Tensor:
    """The trained weights [1, hidden] of a reward model's score head."""
    (weights,) = [p for n, p in model.named_parameters() if "score.modules_to_save" in n]
    return weights


@torch.inference_mode()
def score(model, rows: Sequence[list[int]], pad: int, batch_size: int) -> np.ndarray:
    """The reward model's scores [rows], in batches by length."""
    scores = np.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with bar(len(rows), "scores", "replies") as progress:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            ids, mask = padded([rows[i] for i in part], pad, model.device, side="right")
            # the head is trained in 32 bits, beside a backbone that may have fewer
            with torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
                logits = model(input_ids=ids, attention_mask=mask).logits
            scores[part] = logits.squeeze(-1).float().cpu().numpy()
            progress.update(len(part))
    return scores


def validation_topics(topics: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the training topics, at least one, that the reward model is not trained on."""
    names = sorted(set(topics))
    count = max(1, round(share * len(names)))
    return set(np.random.default_rng(seed).permutation(names)[:count].tolist())


def supported_scale(differences: Sequence[float], topics: Sequence[str], seed: int = 0) -> float:
    """How far validation pairs support the scores: a factor in [0, 1] for them.

    `differences` are chosen less rejected scores of pairs that were not trained on. The factor is
    the lower 95 % bound, by a bootstrap of topics, of the one with the least log-loss: temperature
    scaling (Guo et al. 2017, section 4.2) on the safe side. A reward model whose scores say nothing
    about new pairs gets 0, and rewards nothing.
    """
    grid = np.linspace(0, 1, 101)
    losses = np.logaddexp(0, -np.outer(differences, grid))  # [pairs, factors]
    names, index = np.unique(np.asarray(topics), return_inverse=True)
    by_topic = np.zeros((len(names), len(grid)))
    np.add.at(by_topic, index, losses)
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), 2000)
    best = grid[(drawn @ by_topic).argmin(1)]
    return float(np.quantile(best, 0.025))


def evaluate(
    pairs: Sequence[dict[str, Any]],
    scores: Mapping[str, float],
    lengths: Mapping[str, int],
    scale: float = 1.0,
) -> dict[str, Any]:
    """Accuracy on pairs with its interval by topic, calibration, and what length alone would give.

    Calibration error and log-loss are those of the scores times `scale`, as they are used.
    """
    chosen = np.array([scores[p["chosen"]] for p in pairs])
    rejected = np.array([scores[p["rejected"]] for p in pairs])
    margin = scale * (chosen - rejected)
    longer = np.array([lengths[p["chosen"]] - lengths[p["rejected"]] for p in pairs])
    topics = [p["topic_id"] for p in pairs]
    right = (chosen > rejected) + 0.5 * (chosen == rejected)
    mean, low, high = cluster_bootstrap(right, topics)
    by_length = (longer > 0) + 0.5 * (longer == 0)
    probability = 1 / (1 + np.exp(-np.abs(margin)))
    return {
        "pairs": len(pairs),
        "accuracy": mean,
        "accuracy_interval": [low, high],
        "calibration_error": calibration_error(probability, chosen > rejected),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "length_accuracy": max(float(by_length.mean()), 1 - float(by_length.mean())),
        "score_spread": float(np.std(np.concatenate([chosen, rejected]))),
    }


def make_reward_model(
    *,
    model_folder: Path,
    load: Load,
    dialogues: Sequence[Path],
    ratings: Sequence[Path],
    speaker: str,
    weights: Mapping[str, float],
    texts: Mapping[str, str],
    settings: Rewards,
    shuffled: bool,
    seed: int,
    batch_size: int,
    checkpoints: Path,
    out: Path,
) -> dict[str, Any]:
    """Builds pairs, trains on those of training topics, and measures on those of held-out topics.

    Some training topics are kept back to tell how far the scores can be trusted; the saved score head
    is scaled by that. Writes the adapter with its score head (peft's layout), pairs.parquet,
    training.json and metrics.json. With `shuffled` the pairs of training topics come from shuffled
    ratings; the held-out pairs never do, as they are the measure.
    """
    candidates = rated_candidates(dialogues, ratings, speaker, weights)
    training = candidates[candidates["split"] == TRAIN]
    if shuffled:
        training = shuffle_within_contexts(training, seed)
    all_pairs, fates = build_pairs(training, settings)
    kept_back = validation_topics(training["topic_id"], settings.validation_share, seed)
    pairs = [pair for pair in all_pairs if pair["topic_id"] not in kept_back]
    validation = [pair for pair in all_pairs if pair["topic_id"] in kept_back]
    held_out, held_out_fates = build_pairs(candidates[candidates["split"] == HELD_OUT], settings)
    for split, found in (("training", pairs), ("validation", validation), ("held-out", held_out)):
        if not found:
            raise UserError(
                f"no {split} pairs are left ({fates}, held out {held_out_fates}): lower "
                "rewards.min_margin, or draw more candidates on more topics"
            )
    tokenizer = load_tokenizer(model_folder, load)
    encoded = encode_candidates(tokenizer, dialogues, candidates, texts)
    model, tokenizer, log = train(model_folder, load, pairs, encoded, settings, seed, checkpoints)
    ids = list(encoded)
    found = score(model, [encoded[i] for i in ids], tokenizer.pad_token_id, batch_size)
    scores = dict(zip(ids, found.tolist(), strict=True))
    lengths = dict(zip(candidates["candidate_id"], candidates["tokens"], strict=True))
    too_long = sum(
        max(len(encoded[p["chosen"]]), len(encoded[p["rejected"]])) > settings.max_length for p in pairs
    )
    differences = [scores[p["chosen"]] - scores[p["rejected"]] for p in validation]
    scale = supported_scale(differences, [p["topic_id"] for p in validation])
    with torch.no_grad():
        score_head(model).mul_(scale)
    metrics = {
        "speaker": speaker,
        "shuffled": shuffled,
        "scale": scale,
        "training": evaluate(pairs, scores, lengths, scale) | {"fates": fates, "too_long": too_long},
        "validation": evaluate(validation, scores, lengths, scale),
        "held_out": evaluate(held_out, scores, lengths, scale) | {"fates": held_out_fates},
    }
    model.save_pretrained(out / "adapter", safe_serialization=True)
    scored = [
        pair
        | {
            "chosen_score": scale * scores[pair["chosen"]],
            "rejected_score": scale * scores[pair["rejected"]],
        }
        for pair in (*pairs, *validation, *held_out)
    ]
    pd.DataFrame(scored).to_parquet(out / "pairs.parquet")
    (out / "training.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return metrics
