"""Tunes a pretrained model on a rating whose truth is known, with the preset laptop's dialogues.

python benchmarks/planted_rating.py DIR --mmlu FOLDER [--record]

Dialogues and ratings that are missing in DIR are made; `benchmarks/laptop.py --mmlu FOLDER --keep DIR`
makes some of them.

With 16 topics the guard often finds too little support for a reward model, even a good one, and PPO is
skipped. `--unguarded` leaves the scores as they are, to show what PPO does with them.

The preset's rater of 135M parameters is blind, so its ratings show nothing about the reward model and
PPO. Here a rule takes the place of the partner's ratings: replies that ask a question get 7, all others
2. The rewards, PPO and replies are those of the stages, on the same weights, with the preset's settings
except for twice as many contexts and more steps of PPO. The control's ratings are the same, shuffled.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import whole_run
from expertchat.dialogues.artifact import CANDIDATES
from expertchat.engine.interface import Source
from expertchat.engine.opening import open_engine
from expertchat.engine.training import load_tokenizer
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import MANIFEST
from expertchat.policies.policy import make_policy
from expertchat.ratings.artifact import RATINGS
from expertchat.records import read_all, read_records
from expertchat.replies.artifact import REPLIES
from expertchat.replies.contexts import contexts_for
from expertchat.replies.writing import write_replies
from expertchat.rewards import reward_model as stage
from expertchat.rewards.data import rated_data
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO
from expertchat.settings.rewards import Rewards
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.statistics import cluster_bootstrap
from laptop import PRESET
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
HIGH, LOW = 7.0, 2.0  # the ratings by the rule
PER_CONTEXT = 4  # replies to each held-out context, before and after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of a run of the preset laptop")
    parser.add_argument("--mmlu", type=Path, required=True, help="the questions of that run")
    parser.add_argument("--speaker", default="ada")
    parser.add_argument("--steps", type=int, default=24, help="steps of PPO")
    parser.add_argument("--unguarded", action="store_true", help="a reward scale of 1 for the rule")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    store = arguments.folder / "results"
    config = read_config([PRESET], overrides(arguments.mmlu))
    plan = make_plan(read_experiment(config, ROOT), ROOT)
    reference = "round-1/{}/" + arguments.speaker
    rewards, policies = (
        plan.recipes[plan.views[reference.format(stage)]] for stage in ("rewards", "policies")
    )
    replies = plan.recipes[plan.views[f"replies/{arguments.speaker}"]]
    make_inputs(arguments.folder, arguments.mmlu, rewards)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        ratings = plant(store, rewards, work / "ratings")
        for kind, shuffled in (("the rule", False), ("the rule, shuffled", True)):
            out = work / kind
            began = time.perf_counter()
            metrics = reward_model(store, rewards, ratings, shuffled, out / "reward")
            row = {"ratings": kind, **described(metrics), "reward, s": f"{since(began):.0f}"}
            if arguments.unguarded and not shuffled:
                unguard(store, rewards, ratings, out / "reward")
                row["scale"] += ", 1 used"
                metrics["scale"] = 1.0
            if metrics["scale"] > 0:
                row |= tuned(store, policies, replies, arguments.steps, out)
            rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    batch = policies.settings["section"]["batch_size"]
    body = (
        f"Replies of `{arguments.speaker}` that ask a question are rated {HIGH:g}, all others "
        f"{LOW:g}. Share of {PER_CONTEXT} replies to each held-out context that ask one, before and "
        f"after {arguments.steps} steps of PPO of {batch} replies, with 95 % intervals by topic:\n\n"
        + markdown_table(columns, [[row.get(key, "not tuned") for key in columns] for row in rows])
    )
    print(body)
    if arguments.record:
        record("A planted rating on a pretrained model", "benchmarks/planted_rating.py", body)


def overrides(mmlu: Path) -> list[str]:
    """The changed settings: candidates in all turns, so that there are twice as many contexts."""
    return [whole_run.with_mmlu(mmlu), "dialogues={candidate_turns: [0, 1, 2, 3]}"]


def make_inputs(folder: Path, mmlu: Path, recipe: Recipe) -> None:
    """Runs the preset in `folder` until all inputs of a recipe are made."""
    folder.mkdir(parents=True, exist_ok=True)
    manifests = [f"results/{reference}/{MANIFEST}" for reference in recipe.references()]
    if not all((folder / manifest).exists() for manifest in manifests):
        whole_run.snakemake(folder, PRESET, *overrides(mmlu), targets=manifests)


def tuned(store: Path, policies: Recipe, replies: Recipe, steps: int, out: Path) -> dict[str, str]:
    """Tunes on the reward model in `out`. Returns how long it took, and what it changed."""
    began = time.perf_counter()
    policy(store, policies, out / "reward", steps, out / "policy")
    seconds = since(began)
    before = questions(store, replies, None, out / "before")
    after = questions(store, replies, out / "policy/adapter", out / "after")
    return {
        "PPO, s": f"{seconds:.0f}",
        "before": interval(before["asks"], before["topic_id"]),
        "after": interval(after["asks"], after["topic_id"]),
        "change": interval(after["asks"] - before["asks"], after["topic_id"]),
    }


def asks(text: str) -> bool:
    """The rule: whether a reply asks a question."""
    return "?" in text


def paths(store: Path, recipe: Recipe, name: str) -> list[Path]:
    """The folders of an input of a recipe."""
    value = recipe.inputs[name]
    return [store / reference for reference in ([value] if isinstance(value, str) else value)]


def plant(store: Path, rewards: Recipe, out: Path) -> list[Path]:
    """Copies of the ratings of candidate replies, with the rule's scores."""
    candidates = read_all(paths(store, rewards, "dialogues"), CANDIDATES)
    scores = {c["candidate_id"]: HIGH if asks(c["text"]) else LOW for c in candidates}
    folders = []
    for number, folder in enumerate(paths(store, rewards, "ratings")):
        table = pd.read_parquet(folder / RATINGS)
        planted = table["item_id"].astype(str).map(scores)
        table["score"] = planted.where(planted.notna(), table["score"])
        folders.append(out / str(number))
        folders[-1].mkdir(parents=True)
        table.to_parquet(folders[-1] / RATINGS)
    return folders


def reward_model(store: Path, recipe: Recipe, ratings: list[Path], shuffled: bool, out: Path) -> dict:
    """Makes a reward model from the ratings as stage rewards does. Returns its metrics."""
    out.mkdir(parents=True)
    settings = recipe.settings
    model_folder, section = paths(store, recipe, "model")[0] / "model", Rewards(**settings["section"])
    tokenizer = load_tokenizer(model_folder, Load())
    data = rated_data(
        tokenizer,
        paths(store, recipe, "dialogues"),
        ratings,
        settings["speaker"],
        settings["weights"],
        settings["min_valid_mass"],
        settings["prompts"],
        section,
        shuffled,
        settings["seed"],
    )
    return stage.make_reward_model(
        model_folder=model_folder,
        load=Load(),
        tokenizer=tokenizer,
        data=data,
        speaker=settings["speaker"],
        settings=section,
        shuffled=shuffled,
        seed=settings["seed"],
        checkpoints=out.parent / "reward-checkpoints",
        out=out,
    )


def unguard(store: Path, rewards: Recipe, ratings: list[Path], out: Path) -> None:
    """Makes the same reward model again, from the checkpoints that are left, with a scale of 1."""
    found, guarded = stage.supported_scale, out.with_name("guarded")
    out.rename(guarded)
    stage.supported_scale = lambda *_: 1.0
    try:
        reward_model(store, rewards, ratings, False, out)
    finally:
        stage.supported_scale = found


def policy(store: Path, recipe: Recipe, reward: Path, steps: int, out: Path) -> None:
    """Tunes an adapter on the reward model as stage policies does."""
    out.mkdir(parents=True)
    settings = recipe.settings
    make_policy(
        model_folder=paths(store, recipe, "model")[0] / "model",
        load=Load(),
        contexts=contexts_for(settings, paths(store, recipe, "dialogues"), None, TRAIN),
        reward_model=reward,
        previous=None,
        settings=PPO(**settings["section"] | {"steps": steps}),
        decoding=Decoding(**settings["decoding"]),
        seed=settings["seed"],
        batch_size=16,
        label=f"policy of {settings['speaker']}",
        checkpoints=out.parent / "policy-checkpoints",
        out=out,
    )


def questions(store: Path, recipe: Recipe, adapter: Path | None, out: Path) -> pd.DataFrame:
    """{topic_id, asks}: whether replies to the held-out contexts ask a question."""
    out.mkdir(parents=True)
    settings = recipe.settings
    speaker = settings["speaker"]
    folder = paths(store, recipe, "model")[0] / "model"
    engine = open_engine(Source(speaker, folder, Load(), 16, adapter))
    write_replies(
        engine,
        contexts_for(settings, paths(store, recipe, "dialogues"), None, HELD_OUT),
        PER_CONTEXT,
        Decoding(**settings["decoding"]),
        settings["seed"],
        out / "checkpoints",
        out,
    )
    engine.close()
    table = pd.DataFrame(read_records(out / REPLIES))
    return table.assign(asks=table["text"].map(asks).astype(float))[["topic_id", "asks"]]


def described(metrics: dict[str, Any]) -> dict[str, str]:
    """The figures of a reward model."""
    found = {}
    for name, key in (("cross-fitted", "cross_fitted"), ("held-out", "held_out")):
        low, high = metrics[key]["accuracy_interval"]
        found[f"accuracy, {name}"] = f"{metrics[key]['accuracy']:.2f} [{low:.2f}, {high:.2f}]"
        found[f"pairs, {name}"] = str(metrics[key]["pairs"])
    return found | {"scale": f"{metrics['scale']:.2f}"}


def interval(values: pd.Series, topics: pd.Series) -> str:
    """The mean of `values` with its interval by topic."""
    mean, low, high = cluster_bootstrap(values, topics)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def since(began: float) -> float:
    """Seconds since `began`."""
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
