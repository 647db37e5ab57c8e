"""One of several processes that train together, as a job starts them.

python train_together.py WHAT MODEL DATA WORK
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
import small_policy
from expertchat import checkpoints
from expertchat.console import progress_bar
from expertchat.engine import parallel
from expertchat.errors import UserError
from expertchat.pipeline.processes import begin, own_place, report_failure
from expertchat.policies.running import train as train_policy
from expertchat.rewards.ensemble import cross_fit
from expertchat.rewards.training import train as train_reward
from expertchat.settings.rewards import LengthHead
from safetensors.torch import load_file
from test_reward_training import SETTINGS as REWARDS
from test_reward_training import five_contexts, reward_of
from test_sft import TUNING, tune


def sft(model: Path, data: Path, work: Path, **changes) -> list[dict]:
    found = tune(model, data, work, TUNING.model_copy(update={"batch_size": 9, **changes}))
    if parallel.rank() > 0:
        return found["log"]
    tuned = load_file(work / "out/model/model.safetensors")
    sums = {name: weight.double().abs().sum().item() for name, weight in tuned.items()}
    return [*found["log"], {"after": found["held_out"]["after"]}, sums]


def sft_resumed(model: Path, data: Path, work: Path) -> list[dict]:
    """Tuned to the end, and then once more from the last checkpoint but one."""
    if parallel.count() > 1:
        checkpoints.INTERVAL = 0.0
        sft(model, data, work)
        parallel.from_first(lambda: shutil.rmtree(max((work / "checkpoints/parts").iterdir())))
    return sft(model, data, work)


def rewards(model: Path, data: Path, work: Path, **changes) -> list[dict]:
    settings = REWARDS.model_copy(update={"batch_size": 3, **changes})
    reward, contexts = reward_of(model, settings), five_contexts()
    with progress_bar(1000, "reward", "tokens") as bar:
        log = train_reward(reward, contexts, settings, 3, work / "checkpoints", bar)
        halves = (contexts[:3], contexts[3:])
        folds = [halves, halves[::-1]]
        scores, _ = cross_fit(reward, folds, settings, 3, work / "checkpoints", bar)
    return [*log, {f"score of {name}": score for name, score in scores.items()}]


def policies(model: Path, data: Path, work: Path, algorithm: str) -> list[dict]:
    backbone = small_policy.make_backbone(model, [data])
    settings = small_policy.SETTINGS.model_copy(update=small_policy.GROUPS[algorithm])
    trainer = small_policy.make_trainer(backbone, model, settings, batch_size=3)
    (work / "out").mkdir(parents=True, exist_ok=True)
    train_policy(trainer, "policy", work / "checkpoints", work / "out")
    steps = pd.read_parquet(work / "out/steps.parquet").to_dict("records")
    sums = {n: p.double().abs().sum().item() for n, p in trainer.parameters.items()}
    return [*steps, sums]


def fails(*_) -> list[dict]:
    if parallel.rank() == 1:
        raise UserError("topics.yaml, line 3: it is wrong")
    return parallel.gathered([{}], parallel.count())


def is_killed(*_) -> list[dict]:
    if parallel.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return parallel.gathered([{}], parallel.count())


def diverges(*_) -> list[dict]:
    import torch

    parallel.require_equal([torch.ones(3) * parallel.rank()])
    return []


KINDS = {
    "sft": sft,
    "sft, resumed": sft_resumed,
    "sft, packed": lambda *paths: sft(*paths, packing=True),
    "sft, adapter": lambda *paths: sft(*paths, method="lora"),
    "rewards": rewards,
    "rewards, length head": lambda *paths: rewards(*paths, length_head=LengthHead()),
    "ppo": lambda *paths: policies(*paths, "ppo"),
    "grpo": lambda *paths: policies(*paths, "grpo"),
    "fails": fails,
    "is killed": is_killed,
    "diverges": diverges,
}


def main() -> None:
    what, model, data, work = sys.argv[1], *map(Path, sys.argv[2:])
    place = own_place()
    begin(work, place)
    try:
        parallel.join(place.rank, place.count, place.address, place.gpu)
        own = work if place.rank == 0 else work / f"{place.rank}"
        log = KINDS[what](model, data, own)
        if place.rank == 0:
            (work / "log.json").write_text(json.dumps(log))
        parallel.leave()
    except UserError as error:
        report_failure(work, place, str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
