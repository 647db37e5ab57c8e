"""Trains a reward model on preference pairs, grouped by context.

The loss is that of Bradley and Terry (1952), the mean over all pairs of a step. As in InstructGPT
(Ouyang et al. 2022, section 3.5), all pairs of a context belong to one step, and each candidate is read
once for all of its pairs. `length_head` says what a second head adds.
"""

from __future__ import annotations

import math
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

from expertchat.checkpoints import Checkpoints
from expertchat.engine.training import (
    Reader,
    TokenProgress,
    common_arguments,
    load_model,
    lora_config,
    make_skeleton,
    parallel,
    planned_texts,
    run_to_the_end,
    why_whole,
    without_dropout,
)
from expertchat.errors import UserError
from expertchat.rewards.length_head import batch_gradients, overlap
from expertchat.rewards.scoring import candidate_scores, score_head
from expertchat.settings.models import Load
from expertchat.settings.rewards import LengthHead, Rewards


@dataclass(frozen=True)
class ContextPairs:
    """The candidates of a context that are in a pair, and its pairs.

    `rows` are the token ids of the candidates, where equal ones are one row; `candidates` gives the
    number of the row by candidate id; `chosen` and `rejected` are the numbers of the pairs' rows.
    `lengths` are the replies' own numbers of tokens, by row.
    """

    candidates: dict[str, int]
    rows: list[list[int]]
    lengths: list[int]
    chosen: list[int]
    rejected: list[int]


def group_pairs(
    pairs: Sequence[Mapping[str, Any]],
    encoded: Mapping[str, list[int]],
    lengths: Mapping[str, int],
) -> list[ContextPairs]:
    """The pairs by context, in order. `encoded` are token ids and `lengths` those of the replies, both
    by candidate id."""
    contexts: dict[str, ContextPairs] = {}
    for pair in pairs:
        context = contexts.setdefault(pair["context_id"], ContextPairs({}, [], [], [], []))
        for role, numbers in (("chosen", context.chosen), ("rejected", context.rejected)):
            row = encoded[pair[role]]
            if row not in context.rows:
                context.rows.append(row)
                context.lengths.append(lengths[pair[role]])
            context.candidates[pair[role]] = context.rows.index(row)
            numbers.append(context.rows.index(row))
    return list(contexts.values())


def pair_losses(scores: Tensor, context: ContextPairs) -> Tensor:
    """The losses [pairs] of a context's pairs, from the scores [rows] of its candidates."""
    margin = scores[context.chosen] - scores[context.rejected]
    return -torch.nn.functional.logsigmoid(margin)


@dataclass
class RewardModel:
    """A reward model: a peft model with a score head, and how it reads candidates."""

    model: Any
    reader: Reader

    @property
    def trained(self) -> dict[str, Tensor]:
        """The weights that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def begin(self, seed: int) -> None:
        """Gives the trained weights new values, which depend on the seed only.

        The score head is 0: a random head's preferences would stay in the scores as noise.
        """
        from peft.tuners.lora import LoraLayer

        torch.manual_seed(seed % 2**63)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters("default", init_lora_weights=True)
        torch.nn.init.zeros_(score_head(self.model))


def load_reward_model(model_folder: Path, load: Load, pad: int, settings: Rewards) -> RewardModel:
    """The base model in `model_folder` with an adapter and a score head, which `begin` gives values.

    `pad` is the id of the tokenizer's pad token. Raises UserError if the model does not have the layers
    that `settings.lora` names.
    """
    base = load_model(model_folder, load, AutoModelForSequenceClassification, num_labels=heads(settings))
    base.config.pad_token_id = pad
    without_dropout(base)  # only the adapter's dropout, which is a setting, is used
    model = with_adapter(base, settings, str(model_folder)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    reader = Reader(pad, why_whole(model))
    if reader.whole is not None:
        print(f"each reply is read with its complete context: {reader.whole}", file=sys.stderr)
    return RewardModel(model, reader)


def heads(settings: Rewards) -> int:
    """The number of scores of a reply: its quality's, and that of its length where one is wanted."""
    return 1 if settings.length_head is None else 2


def with_adapter(base, settings: Rewards, source: str):
    """The model `base`, which is called `source`, with a new adapter and score head that are trained."""
    from peft import get_peft_model

    kinds = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    config = lora_config(settings.lora, base, "rewards.lora", source, **kinds)
    return get_peft_model(base, config)


def require_memory(
    reward: RewardModel,
    model_folder: Path,
    load: Load,
    settings: Rewards,
    contexts: Sequence[ContextPairs],
) -> None:
    """Raises UserError if memory does not suffice for a pass over the longest context's candidates."""
    classifier = AutoModelForSequenceClassification
    skeleton = make_skeleton(model_folder, load, classifier, num_labels=heads(settings))
    planned_texts(
        reward.model,
        with_adapter(skeleton, settings, str(model_folder)),
        most=1,
        own=max(reward.reader.tokens(context.rows) for context in contexts),
        again=torch.cuda.is_available(),
    )


class PairTrainer(TokenProgress, Trainer):
    """transformers' Trainer on batches of contexts.

    A step reads one context at a time and adds up the gradients, so that its memory does not depend on
    the batch size and nothing is padded.
    """

    def __init__(
        self, reader: Reader, progress, tokens: int, length_head: LengthHead | None = None, **kwargs
    ):
        """`progress`: a progress bar in tokens, to which the run adds `tokens` in all."""
        collate = {"data_collator": lambda contexts: {"contexts": contexts}}
        super().__init__(progress, tokens, **collate, **kwargs)
        self.reader, self.length_head = reader, length_head
        self.right: list[bool] = []  # of the pairs since the last log entry

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """One step: gradients of the mean loss over all pairs of the batch. Returns this loss."""
        self.model.train()
        contexts: list[ContextPairs] = inputs["contexts"]
        if self.length_head is not None:
            return self._step_with_length_head(contexts, self.length_head)
        pairs = sum(len(context.chosen) for context in contexts)
        total = torch.zeros((), device=self.args.device)
        for context in parallel.share(contexts):
            scores = candidate_scores(self.model, context.rows, self.reader)
            losses = pair_losses(scores.squeeze(1), context)
            self._check(losses)
            self.accelerator.backward(losses.sum() / pairs)
            total += losses.detach().sum().to(total.device) / pairs
            self.count(self.reader.tokens(context.rows))
        return self.together(total)

    def _step_with_length_head(self, contexts: list[ContextPairs], settings: LengthHead) -> Tensor:
        """The same with both heads. Each context is read twice: for its scores, then for gradients."""
        mine = parallel.share(contexts)
        with torch.no_grad(), torch.random.fork_rng():  # the second pass drops out the same values
            own = [candidate_scores(self.model, c.rows, self.reader).cpu() for c in mine]
        parts = parallel.gathered(own, len(contexts))
        sizes = [len(part) for part in parts]
        scores = torch.cat(parts).to(self.args.device)
        lengths = torch.tensor([n for c in contexts for n in c.lengths], device=scores.device)

        def losses_of(sums: Tensor) -> Tensor:
            by_context = zip(sums.split(sizes), contexts, strict=True)
            losses = torch.cat([pair_losses(own, context) for own, context in by_context])
            self._check(losses)
            return losses

        loss, gradient = batch_gradients(scores, losses_of, lengths, settings.weight)
        gradients = parallel.share(gradient.split(sizes))
        for context, gradient in zip(mine, gradients, strict=True):
            again = candidate_scores(self.model, context.rows, self.reader)
            self.accelerator.backward((again * gradient.to(again.device)).sum())
            self.count(self.reader.tokens(context.rows))
        apart = settings.orthogonality * overlap(score_head(self.model))
        self.accelerator.backward(apart / parallel.count())
        both = loss.to(self.args.device) + apart.detach().to(self.args.device)
        return self.together(both / parallel.count())

    def _check(self, losses: Tensor) -> None:
        """Counts which pairs are right. Raises UserError if a loss is not finite."""
        if not bool(torch.isfinite(losses).all()):
            raise UserError(self.not_finite("rewards"))
        self.right += (losses.detach() < math.log(2)).tolist()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the accuracy on the pairs since the last entry."""
        if "loss" in logs:
            every = parallel.gathered([self.right], parallel.count())
            right = [one for own in every for one in own]
            logs["accuracy"] = sum(right) / len(right)
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
    reward.begin(seed)
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
        reward.reader,
        progress,
        tokens,
        settings.length_head,
        model=reward.model,
        args=arguments,
        train_dataset=list(contexts),
    )
    run_to_the_end(trainer, Checkpoints(checkpoints / "steps"))
    reward.model.eval()
    # without the summary at the end: it has times, and a mean loss since the last interruption
    entries = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    return [dict(sorted(entry.items())) for entry in entries]  # as in checkpoints, where keys are sorted
