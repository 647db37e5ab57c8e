"""Trains a reward model on preference pairs, grouped by context.

The loss is that of Bradley and Terry (1952), the mean over all pairs of a step. As in InstructGPT
(Ouyang et al. 2022, section 3.5), all pairs of a context belong to one step, and each candidate is read
once for all of its pairs.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.engine.training import (
    TokenProgress,
    common_arguments,
    load_model,
    lora_config,
    run_to_the_end,
)
from expertchat.errors import UserError
from expertchat.records import read_json, write_json
from expertchat.rewards.scoring import Reader, candidate_scores, score_contexts, why_whole
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards

SCORES = "scores.json"  # file of the checkpoint of a fold


@dataclass(frozen=True)
class ContextPairs:
    """The candidates of a context that are in a pair, and its pairs.

    `rows` are the token ids of the candidates, where equal ones are one row; `candidates` gives the
    number of the row by candidate id; `chosen` and `rejected` are the numbers of the pairs' rows.
    """

    candidates: dict[str, int]
    rows: list[list[int]]
    chosen: list[int]
    rejected: list[int]


def group_pairs(
    pairs: Sequence[Mapping[str, Any]], encoded: Mapping[str, list[int]]
) -> list[ContextPairs]:
    """The pairs by context, in order. `encoded` holds token ids by candidate id."""
    contexts: dict[str, ContextPairs] = {}
    for pair in pairs:
        context = contexts.setdefault(pair["context_id"], ContextPairs({}, [], [], []))
        for role, numbers in (("chosen", context.chosen), ("rejected", context.rejected)):
            row = encoded[pair[role]]
            if row not in context.rows:
                context.rows.append(row)
            context.candidates[pair[role]] = context.rows.index(row)
            numbers.append(context.rows.index(row))
    return list(contexts.values())


def fits(pair: Mapping[str, Any], encoded: Mapping[str, list[int]], max_length: int) -> bool:
    """Whether both replies of a pair, with their context, have at most `max_length` tokens."""
    return max(len(encoded[pair["chosen"]]), len(encoded[pair["rejected"]])) <= max_length


def pair_losses(scores: Tensor, context: ContextPairs) -> Tensor:
    """The losses [pairs] of a context's pairs, from the scores [rows] of its candidates."""
    margin = scores[context.chosen] - scores[context.rejected]
    return -torch.nn.functional.logsigmoid(margin)


@dataclass
class RewardModel:
    """A reward model: a peft model with a score head, and how it reads candidates.

    `initial` are the trained weights before any training, by name.
    """

    model: Any
    reader: Reader
    initial: dict[str, Tensor]


def load_reward_model(
    model_folder: Path, load: Load, pad: int, settings: Rewards, seed: int
) -> RewardModel:
    """The base model in `model_folder` with a new adapter and a new score head.

    `pad` is the id of the tokenizer's pad token. Raises UserError if the model does not have the layers
    that `settings.lora` names.
    """
    from peft import get_peft_model

    torch.manual_seed(seed)
    base = load_model(model_folder, load, AutoModelForSequenceClassification, num_labels=1)
    base.config.pad_token_id = pad
    torch.nn.init.zeros_(base.score.weight)  # a random head's preferences stay in the scores as noise
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # only the adapter's dropout, which is a setting, is used
    key, source = "rewards.lora", str(model_folder)
    kinds = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    config = lora_config(settings.lora, base, key, source, **kinds)
    model = get_peft_model(base, config).eval()
    initial = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            initial[name] = parameter.detach().clone()
    reader = Reader(pad, why_whole(model))
    if reader.whole is not None:
        print(f"each reply is read with its complete context: {reader.whole}", file=sys.stderr)
    return RewardModel(model, reader, initial)


class PairTrainer(TokenProgress, Trainer):
    """transformers' Trainer on batches of contexts.

    A step reads one context at a time and adds up the gradients, so that its memory does not depend on
    the batch size and nothing is padded.
    """

    def __init__(self, reader: Reader, progress, tokens: int, **kwargs):
        """`progress`: a progress bar in tokens, to which the run adds `tokens` in all."""
        collate = {"data_collator": lambda contexts: {"contexts": contexts}}
        super().__init__(progress, tokens, **collate, **kwargs)
        self.reader = reader
        self.right: list[bool] = []  # of the pairs since the last log entry

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """One step: gradients of the mean loss over all pairs of the batch. Returns this loss."""
        self.model.train()
        contexts: list[ContextPairs] = inputs["contexts"]
        pairs = sum(len(context.chosen) for context in contexts)
        total = torch.zeros((), device=self.args.device)
        for context in contexts:
            losses = pair_losses(candidate_scores(self.model, context.rows, self.reader), context)
            if not bool(torch.isfinite(losses).all()):
                raise UserError(self.not_finite("rewards"))
            self.accelerator.backward(losses.sum() / pairs)
            total += losses.detach().sum().to(total.device) / pairs
            self.right += (losses.detach() < math.log(2)).tolist()
            self.count(self.reader.tokens(context.rows))
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the accuracy on the pairs since the last entry."""
        if self.right and "loss" in logs:
            logs["accuracy"] = sum(self.right) / len(self.right)
            self.show_loss(logs)
            self.right = []
        super().log(logs, start_time)

    def floating_point_ops(self, inputs) -> int:
        """Not estimated."""
        return 0


def tokens_to_train(contexts: Sequence[ContextPairs], reader: Reader, epochs: float) -> int:
    """Number of tokens that training on the contexts reads."""
    return round(epochs * sum(reader.tokens(context.rows) for context in contexts))


def train(
    reward: RewardModel,
    contexts: Sequence[ContextPairs],
    settings: Rewards,
    seed: int,
    checkpoints: Path,
    progress,
) -> list[dict[str, Any]]:
    """Trains the reward model from its initial weights, or from the latest checkpoint if there is one.

    `progress` is a bar in tokens, to which `tokens_to_train` are added. Returns the Trainer's log.
    """
    with torch.no_grad():
        for name, parameter in reward.model.named_parameters():
            if name in reward.initial:
                parameter.copy_(reward.initial[name])
    steps = math.ceil(math.ceil(len(contexts) / settings.batch_size) * settings.epochs)
    arguments = TrainingArguments(
        **common_arguments(reward.model, checkpoints / "scratch", steps, seed),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        warmup_steps=0.1,
        remove_unused_columns=False,
        save_only_model=False,
    )
    tokens = tokens_to_train(contexts, reward.reader, settings.epochs)
    trainer = PairTrainer(
        reward.reader, progress, tokens, model=reward.model, args=arguments, train_dataset=list(contexts)
    )
    run_to_the_end(trainer, Checkpoints(checkpoints / "steps"))
    reward.model.eval()
    # without the summary at the end: it has times, and a mean loss since the last interruption
    return [entry for entry in trainer.state.log_history if "train_runtime" not in entry]


def cross_fit(
    reward: RewardModel,
    folds: Sequence[tuple[Sequence[ContextPairs], Sequence[ContextPairs]]],
    settings: Rewards,
    seed: int,
    checkpoints: Path,
    progress,
) -> tuple[dict[str, float], list[list[dict[str, Any]]]]:
    """Scores of candidates by reward models that were not trained on their topics.

    `folds` are (contexts to train on, contexts to score). Returns the scores by candidate id, and the
    Trainer's log of each fold. The scores of a finished fold are kept in `checkpoints`, so that an
    interrupted job does not train it again.
    """
    scores: dict[str, float] = {}
    logs = []
    finished = Checkpoints(checkpoints / "folds", keep=None)
    for number, (training, scored) in enumerate(folds, 1):
        name = numbered(number)
        if finished.find(name) is not None:
            progress.update(
                tokens_to_train(training, reward.reader, settings.epochs)
                + tokens_to_train(scored, reward.reader, 1)
            )
        else:
            run = checkpoints / f"fold-{number}"
            log = train(reward, training, settings, seed, run, progress)
            found = score_candidates(reward, scored, progress)
            with finished.writing(name) as folder:
                write_json(folder / SCORES, {"scores": found, "log": log})
            shutil.rmtree(run)
        result = read_json(finished.folder / name / SCORES)
        scores |= result["scores"]
        logs.append(result["log"])
    return scores, logs


def score_candidates(
    reward: RewardModel, contexts: Sequence[ContextPairs], progress
) -> dict[str, float]:
    """The scores of the contexts' candidates by candidate id."""
    rows = [context.rows for context in contexts]
    found = score_contexts(reward.model, rows, reward.reader, progress.update)
    return {
        name: scores[row]
        for context, scores in zip(contexts, found, strict=True)
        for name, row in context.candidates.items()
    }
