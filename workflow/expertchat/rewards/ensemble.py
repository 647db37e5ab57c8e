"""The reward models of an ensemble: each cross-fitted, trained and saved, and their combined score."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.engine.training import parallel, save_adapter
from expertchat.records import read_json, write_json
from expertchat.rewards.artifact import adapter_name
from expertchat.rewards.length_head import QUALITY
from expertchat.rewards.scoring import combine, score_contexts
from expertchat.rewards.training import ContextPairs, RewardModel, tokens_to_train, train
from expertchat.seeds import seed_of
from expertchat.settings.rewards import Rewards

SCORES = "scores.json"  # file of the checkpoints of a fold and of a member
Folds = Sequence[tuple[Sequence[ContextPairs], Sequence[ContextPairs]]]  # (to train on, to score)


@dataclass(frozen=True)
class Member:
    """A trained reward model: the folder of its adapter, scores by candidate id, and its logs.

    `cross_fitted` are scores by models that were not trained on the candidates' topics.
    """

    adapter: Path
    cross_fitted: dict[str, float]
    held_out: dict[str, float]
    log: dict[str, Any]


def member_seeds(seed: int, count: int) -> list[int]:
    """The seeds of an ensemble's members. A larger ensemble has those of a smaller one."""
    return [seed, *(seed_of(seed, "reward model", number) for number in range(1, count))]


def tokens_of_member(
    reward: RewardModel,
    folds: Folds,
    every: Sequence[ContextPairs],
    new: Sequence[ContextPairs],
    epochs: float,
) -> int:
    """Number of tokens that `train_member` reads."""
    once = [context for _, scored in folds for context in scored] + list(new)
    trained = (*(training for training, _ in folds), every)
    total = sum(tokens_to_train(contexts, reward.reader, epochs) for contexts in trained)
    return total + tokens_to_train(once, reward.reader, 1)


def train_member(
    reward: RewardModel,
    folds: Folds,
    every: Sequence[ContextPairs],
    new: Sequence[ContextPairs],
    settings: Rewards,
    seed: int,
    checkpoints: Path,
    progress,
) -> Member:
    """One reward model: cross-fitted over `folds`, then trained on `every` context to score `new` ones.

    It is kept in `checkpoints`, so that an interrupted job does not train it again.
    """
    finished = Checkpoints(checkpoints / "finished", keep=None)
    name = numbered(0)
    folder = parallel.from_first(partial(finished.find, name))
    if folder is not None:
        progress.update(tokens_of_member(reward, folds, every, new, settings.epochs))
    else:
        cross_fitted, logs = cross_fit(reward, folds, settings, seed, checkpoints, progress)
        log = train(reward, every, settings, seed, checkpoints / "final", progress)
        scores = score_candidates(reward, new, progress)
        with finished.writing(name) as part:
            save_adapter(reward.model, part / "adapter")
            found = {"cross_fitted": cross_fitted, "held_out": scores}
            write_json(part / SCORES, found | {"log": {"folds": logs, "final": log}})
        shutil.rmtree(checkpoints / "final")
        folder = finished.folder / name
    return Member(folder / "adapter", **read_json(folder / SCORES))


def cross_fit(
    reward: RewardModel, folds: Folds, settings: Rewards, seed: int, checkpoints: Path, progress
) -> tuple[dict[str, float], list[list[dict[str, Any]]]]:
    """Scores of candidates by reward models that were not trained on their topics.

    Returns the scores by candidate id, and the Trainer's log of each fold. The scores of a finished fold
    are kept in `checkpoints`, so that an interrupted job does not train it again.
    """
    scores: dict[str, float] = {}
    logs = []
    finished = Checkpoints(checkpoints / "folds", keep=None)
    for number, (training, scored) in enumerate(folds, 1):
        name = numbered(number)
        folder = parallel.from_first(partial(finished.find, name))
        if folder is not None:
            progress.update(
                tokens_to_train(training, reward.reader, settings.epochs)
                + tokens_to_train(scored, reward.reader, 1)
            )
        else:
            run = checkpoints / f"fold-{number}"
            log = train(reward, training, settings, seed, run, progress)
            found = score_candidates(reward, scored, progress)
            with finished.writing(name) as part:
                write_json(part / SCORES, {"scores": found, "log": log})
            shutil.rmtree(run)
            folder = finished.folder / name
        result = read_json(folder / SCORES)
        scores |= result["scores"]
        logs.append(result["log"])
    return scores, logs


def score_candidates(
    reward: RewardModel, contexts: Sequence[ContextPairs], progress
) -> dict[str, float]:
    """The scores of the contexts' candidates by candidate id."""
    rows = parallel.share([context.rows for context in contexts])
    tokens = [sum(map(reward.reader.tokens, part)) for part in (rows, [c.rows for c in contexts])]
    done = parallel.for_all(progress.update, *tokens)
    own = score_contexts(reward.model, rows, reward.reader, done)
    found = parallel.gathered(own, len(contexts))
    return {
        name: scores[row]
        for context, scores in zip(contexts, found, strict=True)
        for name, row in context.candidates.items()
    }


def combined(scores: Sequence[Mapping[str, float]], spread_penalty: float) -> dict[str, float]:
    """The ensemble's scores by candidate id, from those of its members."""
    table = np.array([[member[name] for name in scores[0]] for member in scores])
    return dict(zip(scores[0], combine(table, spread_penalty).tolist(), strict=True))


def publish_member(adapter: Path, scale: float, out: Path, number: int) -> None:
    """Copies a member's adapter to `out`, with the score head multiplied by `scale`.

    Of two heads, that of quality is kept.
    """
    folder = out / adapter_name(number)
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    (head,) = [name for name in weights if name.endswith("score.weight")]
    weights[head] = scale * weights[head][[QUALITY]]
    save_file(weights, file, metadata={"format": "pt"})
