"""Supervised fine-tuning of a model on conversations, by TRL's SFTTrainer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, Trainer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from expertchat.checkpoints import Checkpoints
from expertchat.console import progress_bar
from expertchat.engine.training import (
    ShardedCheckpoints,
    TokenProgress,
    check_lengths,
    common_arguments,
    end_token_ids,
    load_model,
    load_tokenizer,
    lora_config,
    make_skeleton,
    padded,
    parallel,
    planned_texts,
    run_to_the_end,
    save_adapter,
    sharding,
    without_dropout,
)
from expertchat.errors import UserError
from expertchat.instructions.artifact import HELD_OUT_FILE, TRAIN_FILE
from expertchat.records import read_records, write_json
from expertchat.seeds import seed_of
from expertchat.settings.models import Load
from expertchat.settings.sft import Tuning
from expertchat.sft.artifact import LOSSES
from expertchat.sft.encoding import IGNORED, Encoded, encode_conversation, shortened
from expertchat.statistics import bootstrap_sums

LOGITS = 14  # bytes of a logit in training: in 16 and 32 bits, its log-probability, and its gradient
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


def tune_model(
    *,
    model_folder: Path,
    load: Load,
    instructions: Path,
    settings: Tuning,
    seed: int,
    batch_size: int,
    label: str,
    checkpoints: Path,
    out: Path,
) -> dict[str, Any]:
    """Tunes the model in `model_folder` on an artifact of stage instructions.

    `batch_size`: rows in one forward pass; it affects memory and speed only. Writes to `out` the folder
    `model`, in the Hugging Face layout, and losses.json. Returns the content of losses.json. Raises
    UserError if no conversation fits, or if the model lacks layers that `settings.lora` names.
    """
    tokenizer = load_tokenizer(model_folder, load)
    sharded = settings.method == "full" and parallel.count() > 1
    model = load_model(model_folder, load, placement={"": "cpu"} if sharded else None)
    ends = end_token_ids(model, tokenizer)
    (training, held_out), counts = zip(
        *(
            read_rows(instructions / name, tokenizer, ends, settings)
            for name in (TRAIN_FILE, HELD_OUT_FILE)
        ),
        strict=True,
    )
    check_lengths(model_folder, max(len(row.ids) for row in (*training, *held_out)))
    if settings.packing:
        require_separate(model, training, tokenizer.pad_token_id)
    model = prepare(model, settings, str(model_folder), seed)
    longest = max(len(row.ids) for row in training)
    batch_size = planned_texts(
        model,
        prepared_skeleton(model_folder, load, settings),
        batch_size,
        settings.max_length if settings.packing else longest,
        again=torch.cuda.is_available(),
        head=LOGITS * model.config.get_text_config().vocab_size,
    )
    tokens = round(settings.epochs * sum(len(row.ids) for row in training))
    total = tokens + 2 * sum(len(row.ids) for row in held_out)
    with progress_bar(total, label, "tokens") as progress:
        before = losses_of(model, held_out, tokenizer.pad_token_id, batch_size, progress)
        log = train(
            model, tokenizer, training, settings, seed, batch_size, tokens, checkpoints, progress
        )
        after = losses_of(model, held_out, tokenizer.pad_token_id, batch_size, progress)
    if sharded:
        model = together(model, model_folder, load)
    if parallel.rank() == 0:
        save_merged(model, model_folder, load, checkpoints, out / "model")
    found = {
        "counts": dict(zip(("train", "held_out"), counts, strict=True)),
        "held_out": compared(before, after, held_out),
        "log": log,
    }
    write_json(out / LOSSES, found)
    return found


def read_rows(
    path: Path, tokenizer, ends: Sequence[int], settings: Tuning
) -> tuple[list[Encoded], dict[str, int]]:
    """The conversations of a file as rows of at most `settings.max_length` tokens, and their counts.

    Raises UserError if there are none.
    """
    rows = [
        encode_conversation(tokenizer, record["messages"], ends, settings.loss_on)
        for record in read_records(path)
    ]
    kept = [short for row in rows if (short := shortened(row, settings.max_length)) is not None]
    if not kept:
        raise UserError(f"sft.max_length: {settings.max_length}; no conversation of {path.name} fits")
    left_out, long = len(rows) - len(kept), sum(len(row.ids) > settings.max_length for row in rows)
    return kept, {
        "conversations": len(kept),
        "cut": long - left_out,
        "left_out": left_out,
        "tokens": sum(len(row.ids) for row in kept),
    }


@torch.inference_mode()
def require_separate(model, rows: Sequence[Encoded], pad: int) -> None:
    """Raises UserError if the model lets conversations see each other that are packed into one row.

    Packed rows have no mask: a model must tell conversations apart by the positions of their tokens.
    """
    pair = sorted(rows, key=lambda row: len(row.ids))[:2]
    collate = DataCollatorForLanguageModeling(pad, padding_free=True)
    packed, *apart = (
        collate([{"input_ids": row.ids, "labels": row.labels} for row in part])
        for part in (pair, *([row] for row in pair))
    )
    try:
        together, *alone = (
            model(**on_device(batch, model.device), use_cache=False) for batch in (packed, *apart)
        )
        expected = torch.cat([output.logits for output in alone], 1)
        same = torch.allclose(together.logits.float(), expected.float(), rtol=1e-2, atol=1e-2)
    except TypeError:  # it does not take the arguments that packed rows have
        same = False
    if not same:
        raise UserError(
            "sft.packing: true; this model reads the conversations of a row as one text: set it to false"
        )


def on_device(batch: Mapping[str, Any], device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def prepare(model, settings: Tuning, source: str, seed: int):
    """The model with what is to be trained: an adapter, or all of its weights in float32, of which each
    of several processes has a part."""
    if settings.method == "full":
        several = parallel.count() > 1
        return sharding.shard(model) if several else model.float().requires_grad_(True)
    torch.manual_seed(seed)
    config = lora_config(settings.lora, model, "sft.lora", source, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def prepared_skeleton(model_folder: Path, load: Load, settings: Tuning):
    """The model without weights, as `prepare` makes it."""
    skeleton = make_skeleton(model_folder, load)
    if settings.method == "full":
        return skeleton.float()
    config = lora_config(settings.lora, skeleton, "sft.lora", str(model_folder), task_type="CAUSAL_LM")
    return get_peft_model(skeleton, config)


class OwnShare:
    """A collator of the rows of a batch that this process works on; if there are none, of one row whose
    loss does not count."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        own = parallel.share(rows)
        return self.collate(own or [rows[0] | {"labels": [IGNORED] * len(rows[0]["labels"])}])


class ConversationTrainer(TokenProgress, ShardedCheckpoints, SFTTrainer):
    """TRL's trainer, with a progress bar in tokens, and an end at the first loss that is not finite."""

    def __init__(self, *arguments, **kwargs):
        super().__init__(*arguments, **kwargs)
        self.data_collator = OwnShare(self.data_collator)
        self.seeded = -1  # the step for which the adapter's dropout was seeded

    def _get_num_items_in_batch(self, batch_samples, device):
        """The number of tokens that the loss of a step counts, in all processes."""
        own = super()._get_num_items_in_batch(batch_samples, device)
        return None if own is None else parallel.stacked(torch.as_tensor(own)).sum(0)

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """One pass over a batch. Raises UserError if the loss is not finite."""
        if parallel.count() > 1 and self.seeded != self.state.global_step:
            self.seeded = self.state.global_step
            torch.manual_seed(seed_of(self.args.seed, "dropout", self.seeded, parallel.rank()))
        mask = inputs.get("attention_mask")  # packed rows have none, and no padding
        tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise UserError(self.not_finite("sft"))
        self.count(tokens)
        return self.together(loss)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Shows the loss beside the progress bar."""
        self.show_loss(logs)
        super().log(logs, start_time)

    def _save_checkpoint(self, model, trial) -> None:
        Trainer._save_checkpoint(self, model, trial)  # without TRL's model card


def train(
    model,
    tokenizer,
    rows: Sequence[Encoded],
    settings: Tuning,
    seed: int,
    batch_size: int,
    tokens: int,
    checkpoints: Path,
    progress,
) -> list[dict[str, Any]]:
    """Trains the model on the rows, from the latest checkpoint if there is one.

    `progress` is a bar in tokens, to which `tokens` are added. Returns the Trainer's log.
    """
    without_dropout(model)  # only the adapter's dropout, which is a setting, is used
    gpu = torch.cuda.is_available()
    together = largest_divisor(settings.batch_size, batch_size * parallel.count())  # in all processes
    steps = math.ceil(math.ceil(len(rows) / settings.batch_size) * settings.epochs)
    arguments = SFTConfig(
        **common_arguments(model, checkpoints / "scratch", steps, seed),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=settings.batch_size // together,
        warmup_steps=0.03,
        bf16=gpu and torch.cuda.is_bf16_supported() and model.dtype != torch.float16,
        max_length=settings.max_length,
        packing=settings.packing,
    )
    data = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])
    trainer = ConversationTrainer(
        progress,
        tokens,
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
    )
    kind = "parts" if sharding.is_sharded(model) else "steps"
    run_to_the_end(trainer, Checkpoints(checkpoints / kind))
    model.eval()
    names = ("step", "loss", "learning_rate", "grad_norm")
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: entry[name] for name in names if name in entry} for entry in entries]


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)


@torch.no_grad()  # weights that are put together in inference mode could not be trained
def losses_of(model, rows: Sequence[Encoded], pad: int, batch_size: int, progress) -> np.ndarray:
    """The summed loss of each row's counted tokens, in nats [rows]."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    mine = [rows[i] for i in parallel.share(order)]
    tokens = (sum(len(row.ids) for row in part) for part in (mine, rows))
    passed = mine
    if len(mine) < math.ceil(len(rows) / parallel.count()):  # as many passes as the others make
        passed = [*mine, min(rows, key=lambda row: len(row.ids))]
    own = _own_losses(model, passed, pad, batch_size, parallel.for_all(progress.update, *tokens))
    totals = np.zeros(len(rows))
    totals[order] = parallel.gathered(own[: len(mine)].tolist(), len(rows))
    return totals


def _own_losses(
    model, rows: Sequence[Encoded], pad: int, batch_size: int, on_tokens: Callable[[int], None]
) -> np.ndarray:
    """The same for the rows of this process. `on_tokens` gets the tokens of each pass."""
    totals = np.zeros(len(rows))
    order = range(len(rows))
    for first in range(0, len(order), batch_size):
        part = order[first : first + batch_size]
        ids, mask = padded([rows[i].ids for i in part], pad, model.device, side="right")
        labels, _ = padded([rows[i].labels for i in part], IGNORED, model.device, side="right")
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        counted = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][counted].to(logits.device)
        counted = counted.to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits[counted].float(), targets, reduction="none")
        row = torch.nonzero(counted, as_tuple=True)[0]
        sums = torch.zeros(len(part), dtype=torch.float64, device=logits.device)
        totals[part] = sums.index_add_(0, row, losses.double()).cpu().numpy()
        on_tokens(int(mask.sum()))
    return totals


def compared(before: np.ndarray, after: np.ndarray, rows: Sequence[Encoded]) -> dict[str, Any]:
    """The mean loss per counted token before and after, with 95 % intervals, and its change.

    `before` and `after` are sums [rows]. The intervals resample whole conversations.
    """
    counted = np.array([sum(label != IGNORED for label in row.labels[1:]) for row in rows], dtype=float)
    sums = np.stack([before, after, counted], 1)  # [rows, 3]
    names = [f"{i}" for i in range(len(rows))]
    figures: dict[str, Any] = {"conversations": len(rows), "tokens": int(counted.sum())}
    for name, function in (
        ("before", lambda s: s[..., 0] / s[..., 2]),
        ("after", lambda s: s[..., 1] / s[..., 2]),
        ("change", lambda s: (s[..., 1] - s[..., 0]) / s[..., 2]),
    ):
        mean, low, high = bootstrap_sums(sums, names, function)
        figures |= {name: mean, f"{name}_interval": [low, high]}
    return figures


def together(model, model_folder: Path, load: Load):
    """The model of which each process has a part, whole and on the CPU in the first; None in others."""
    whole = None
    if parallel.rank() == 0:
        whole = load_model(model_folder, load, placement={"": "cpu"})
    sharding.copy_to(model, whole)
    return whole


def save_merged(model, model_folder: Path, load: Load, checkpoints: Path, out: Path) -> None:
    """Writes the tuned model in the layout and the number format of the model in `model_folder`.

    An adapter is merged into the weights. Those of a quantized base are read again for that without
    quantization, as they are stored (the adapter was trained on the quantized ones).
    """
    if isinstance(model, PeftModel):
        if load.quantization != "none":
            adapter = checkpoints / "adapter"
            shutil.rmtree(adapter, ignore_errors=True)
            save_adapter(model, adapter)
            plain = load_model(model_folder, load.model_copy(update={"quantization": "none"}))
            model = PeftModel.from_pretrained(plain, str(adapter))
        model = model.merge_and_unload()
    stored = AutoConfig.from_pretrained(model_folder, local_files_only=True).dtype
    model = model.to(stored or torch.float32)
    model.save_pretrained(out, safe_serialization=True)
    for path in sorted(model_folder.iterdir()):  # tokenizer, chat template and what else lies there
        if path.is_file() and not any(path.match(pattern) for pattern in WEIGHTS):
            shutil.copyfile(path, out / path.name)
