"""Reading what an experiment produced, as pandas DataFrames: in a notebook, and for the report.

    import expertchat
    run = expertchat.open_experiment("demo", store="results")
    run.turns(round=1)

Columns are described in docs/python.md. Nothing here needs snakemake or torch.

Rounds: dialogues, ratings and reliability of round n are by the models as they were before they were
tuned in round n, so round 1 is by the base models, and the last round's number is one more than the
rounds of tuning. Rewards and policies of round n are what is learned in it. Replies, answers and what is
computed from them are by the models after round n, and round 0 is the base models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.answers.artifact import ANSWERS, read_answers
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.errors import UserError
from expertchat.judgements.artifact import JUDGEMENTS
from expertchat.oracle.artifact import ITEMS
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.store import read_recipe
from expertchat.pipeline.view import Artifact, label_of, place_of
from expertchat.policies.artifact import STEPS
from expertchat.ratings.artifact import (
    ANCHOR_CHECK,
    DIALOGUE,
    OVERALL_COLUMNS,
    PARTNER,
    RATINGS,
    TEXTS,
    THIRD,
    overall,
    read_anchor_scores,
    read_scores,
    read_tables,
)
from expertchat.records import read_all, read_json, read_records
from expertchat.replies.artifact import REPLIES
from expertchat.rewards.artifact import PAIRS
from expertchat.settings.mmlu import Asking
from expertchat.speeds.artifact import SPEEDS
from expertchat.topics.artifact import REJECTED, TOPICS

EXPERIMENTS = "experiments"  # the folder of readable views in a store


def open_experiment(name: str, store: str | Path = "results") -> ExperimentResults:
    """The results of the experiment `name` in a store, finished or still running.

    Raises UserError that names the known experiments if there is no such one.
    """
    store = Path(store)
    views = store / EXPERIMENTS
    known = sorted(path.name for path in views.iterdir() if path.is_dir()) if views.is_dir() else []
    if name not in known:
        listed = ", ".join(known) or "none"
        raise UserError(f"{name}: no such experiment in {store}; known experiments: {listed}")
    links = sorted(path for path in (views / name).rglob("*") if path.is_symlink())
    places = {}
    for link in links:
        stage, id = link.readlink().parts[-2:]
        places[link.relative_to(views / name).as_posix()] = f"{stage}/{id}"
    settings = read_recipe(store, places["report"]).settings if "report" in places else {}
    return ExperimentResults(store, places, settings, name)


class ExperimentResults:
    """What an experiment produced. Methods that take `round` return all rounds if it is None.

    DataFrames are tidy: one row per observation, joined by ids. Methods raise UserError if what they
    read is not finished, or if there is no such round, model or split.
    """

    def __init__(
        self, store: Path, places: Mapping[str, str], settings: Mapping[str, Any], name: str = ""
    ):
        """`places`: references "stage/id" by readable name; `settings`: those of stage report."""
        self.store, self.settings, self.name = store, settings, name or settings.get("name", "")
        found = [place_of(view, reference, store) for view, reference in places.items()]
        order = {model: i for i, model in enumerate(settings.get("models", ()))}

        def key(artifact: Artifact) -> tuple:
            known = order.get(artifact.model, len(order))
            return artifact.round or 0, STAGES.index(artifact.stage), known, artifact.name

        self.all_artifacts = sorted(found, key=key)

    def __repr__(self) -> str:
        done = sum(artifact.finished for artifact in self.all_artifacts)
        return f"<experiment {self.name}: {done} of {len(self.all_artifacts)} artifacts finished>"

    # ------------------------------------------------------------ what there is

    @property
    def jobs(self) -> dict[str, Artifact]:
        """The artifacts by a description of their jobs; each once, also if several models share it."""
        by_reference: dict[str, list[Artifact]] = {}
        for artifact in self.all_artifacts:
            by_reference.setdefault(artifact.reference, []).append(artifact)
        return {label_of([a.view for a in shared]): shared[0] for shared in by_reference.values()}

    @property
    def models(self) -> list[str]:
        """Names of the models that talk or answer, in the order of the settings."""
        return list(self.settings.get("models") or dict.fromkeys(a.model for a in self.all_artifacts))

    @property
    def rounds(self) -> int:
        """Rounds of tuning."""
        return self.settings.get("rounds", 0)

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The experiment's settings, defaults included."""
        return self.settings.get("experiment", {})

    @property
    def transcripts(self) -> bool:
        """Whether the dialogues are the user's transcripts, which all models rate."""
        return self.experiment.get("dialogues", {}).get("transcripts") is not None

    def artifacts(self) -> pd.DataFrame:
        """One row per artifact and name: stage, round, name, model, id, finished, label, seconds,
        peak_memory_bytes and path. Times and memory are missing for artifacts that are not finished.
        Models with the same weights share artifacts, which have the same id."""
        rows = []
        for artifact in self.all_artifacts:
            manifest = artifact.manifest if artifact.finished else {}
            rows.append(
                {
                    "stage": artifact.stage,
                    "round": artifact.round,
                    "name": artifact.name,
                    "model": artifact.model,
                    "id": artifact.reference.split("/")[1],
                    "finished": artifact.finished,
                    "label": label_of([artifact.view]),
                    "seconds": manifest.get("seconds"),
                    "peak_memory_bytes": manifest.get("peak_memory_bytes"),
                    "path": str(artifact.folder),
                }
            )
        table = pd.DataFrame(rows)
        return table.astype({"round": "Int64", "seconds": float, "peak_memory_bytes": "Int64"})

    def find(
        self,
        stage: str,
        round: int | None = None,
        model: str | None = None,
        within: str = "",
    ) -> list[Artifact]:
        """The artifacts of a stage, by round and model, that are finished; all of them must be.

        `within`: a further part of the name, such as a split. Raises UserError if none is known by these
        names, naming the known ones, or if one of them is not finished.
        """
        own = [a for a in self.all_artifacts if a.stage == stage]
        if not own:
            raise UserError(f"{self.name}: this experiment has no stage {stage}")
        for what, value, values in (
            ("round", round, [a.round for a in own]),
            ("model", model, [a.model for a in own]),
            ("split", within or None, [part for a in own for part in a.name.split("/")[1:2]]),
        ):
            if value is not None and value not in values:
                known = ", ".join(map(str, dict.fromkeys(v for v in values if v not in (None, ""))))
                raise UserError(f"{stage}: no {what} {value!r} in {self.name}; known: {known}")
        chosen = [
            a
            for a in own
            if round in (None, a.round)
            and model in (None, a.model)
            and (not within or within in a.name.split("/")[1:])
        ]
        missing = [a for a in chosen if not a.finished]
        if missing:
            first = "/".join(filter(None, (missing[0].stage, missing[0].name)))
            when = f" of round {missing[0].round}" if missing[0].round is not None else ""
            raise UserError(
                f"{first}{when} is not finished ({len(missing)} of {len(chosen)} are missing); "
                "run.artifacts() lists what is, and round= chooses a round"
            )
        return chosen

    def has(self, stage: str) -> bool:
        """Whether the experiment has the stage."""
        return any(artifact.stage == stage for artifact in self.all_artifacts)

    def folder(self, stage: str, round: int | None = None, model: str | None = None) -> Path:
        """The folder of the one artifact with these names."""
        chosen = self.find(stage, round, model)
        if len(chosen) > 1:
            raise UserError(f"{stage}: {len(chosen)} artifacts have these names; give round or model")
        return chosen[0].folder

    def json(self, stage: str, file: str, round: int | None = None, model: str | None = None) -> Any:
        """The content of a JSON file of the one artifact with these names."""
        return read_json(self.folder(stage, round, model) / file)

    def records(self, stage: str, file: str, round: int | None = None) -> list[dict[str, Any]]:
        """The records of a JSON lines file, of all artifacts of the stage or of a round."""
        return list(read_all((artifact.folder for artifact in self.find(stage, round)), file))

    # ------------------------------------------------------------ tables

    def topics(self) -> pd.DataFrame:
        """One row per topic that is talked about. Key: topic_id."""
        return pd.DataFrame(read_records(self.folder("topics") / TOPICS))

    def rejected_topics(self) -> pd.DataFrame:
        """One row per topic that was rejected, with the reason."""
        columns = [
            *("topic", "subject", "audience", "kind", "author"),
            *("reason", "like", "similarity", "gate"),
        ]
        rows = read_records(self.folder("topics") / REJECTED)
        return pd.DataFrame(rows).reindex(columns=columns) if rows else pd.DataFrame(columns=columns)

    def turns(self, round: int | None = None) -> pd.DataFrame:
        """One row per turn of a dialogue. Key: round, dialogue_id, turn."""
        rows = []
        for artifact in self.find("dialogues", round):
            for dialogue in read_all([artifact.folder], DIALOGUES):
                named = {k: v for k, v in dialogue.items() if not isinstance(v, (list, dict))}
                for number, turn in enumerate(dialogue["turns"]):
                    seat = turn["speaker"]
                    model = dialogue.get("models", {}).get(seat, seat)
                    role = dialogue.get("roles", {}).get(seat, "")
                    placed = {"round": artifact.round, **named, "turn": number}
                    rows.append({**placed, "model": model, "role": role, **turn})
        return pd.DataFrame(rows)

    def candidates(self, round: int | None = None) -> pd.DataFrame:
        """One row per candidate reply. Key: round, candidate_id."""
        parts = [
            pd.DataFrame(read_all([a.folder], CANDIDATES)).assign(round=a.round)
            for a in self.find("dialogues", round)
        ]
        return _joined(parts)

    def ratings(
        self,
        round: int | None = None,
        *,
        scope: str | None = None,
        split: str | None = None,
        model: str | None = None,
        controls: bool = False,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """One row per rating: item, rater, order, repeat and category.

        Without `controls`, only the ratings that count: by the partner (of transcripts: by any model but
        the speaker), of texts without a canary. With them also self-ratings, ratings by third parties,
        and of texts with a canary. `scope`, `split` and `model` (whose words are rated) select rows;
        `columns` names the columns to read.
        """
        wanted = {"scope": scope, "split": split, "model": model}
        relations: list[dict[str, str]] = [{}]
        if not controls:
            wanted |= {"canary": ""}
            counting = (PARTNER, THIRD) if self.transcripts else (PARTNER,)
            relations = [{"relation": relation} for relation in counting]
        equal = {name: value for name, value in wanted.items() if value is not None}
        chosen, floor = self.find("ratings", round), self.settings["min_valid_mass"]
        table = _joined(
            read_scores([a.folder], floor, columns, **equal, **relation).assign(round=a.round)
            for a in chosen
            for relation in relations
        )
        for name, value in (("scope", scope), ("split", split), ("model", model)):
            if table.empty and value is not None:
                known = set(read_tables([a.folder for a in chosen], RATINGS, [name])[name])
                if value not in known:
                    listed = ", ".join(sorted(known))
                    raise UserError(f"ratings: no {name} {value!r} in {self.name}; known: {listed}")
        return table

    def overall_ratings(
        self, round: int | None = None, *, scope: str = DIALOGUE, split: str | None = None
    ) -> pd.DataFrame:
        """One row per rated item: its overall rating, weighted as in the rubric, which training and the
        report use; `overall` is missing if a rating of the item is unusable."""
        rounds = [round] if round is not None else sorted({a.round or 0 for a in self.find("ratings")})
        parts = [
            overall(
                self.ratings(number, scope=scope, split=split, columns=OVERALL_COLUMNS),
                self.settings["weights"],
            ).assign(round=number)
            for number in rounds
        ]
        return _joined(parts)

    def rated_texts(self, round: int | None = None) -> pd.DataFrame:
        """One row per rater and rated item: the length of its text and, if asked for, its perplexity."""
        return self._by_round("ratings", TEXTS, round)

    def anchors(self, round: int | None = None) -> pd.DataFrame:
        """One row per rater, anchor and category."""
        floor, found = self.settings["min_valid_mass"], self.find("ratings", round)
        return _joined(read_anchor_scores([a.folder], floor).assign(round=a.round) for a in found)

    def anchor_checks(self, round: int | None = None) -> pd.DataFrame:
        """One row per rater: whether it tells good anchors from bad ones (`blind`; None: unknown)."""
        rows: dict[tuple, dict[str, Any]] = {}
        for artifact in self.find("ratings", round):  # the jobs of all shards rate the same anchors
            check = read_json(artifact.folder / ANCHOR_CHECK)
            del check["categories"]
            rows[artifact.round, check["rater"]] = {"round": artifact.round, **check}
        return pd.DataFrame(rows.values())

    def preferences(self, model: str | None = None, round: int | None = None) -> pd.DataFrame:
        """One row per preference pair of a reward model, with candidate_ids `chosen` and `rejected`."""
        return self._tables("rewards", PAIRS, model, round)

    def ppo_steps(self, model: str | None = None, round: int | None = None) -> pd.DataFrame:
        """One row per step of PPO: score, KL, losses and so on. Key: round, model, step."""
        return self._tables("policies", STEPS, model, round)

    def replies(self, model: str | None = None, round: int | None = None) -> pd.DataFrame:
        """One row per reply to a held-out context; round 0 is by the base model."""
        parts = [
            pd.DataFrame(read_records(a.folder / REPLIES)).assign(round=a.round, model=a.model)
            for a in self.find("replies", round, model)
        ]
        return _joined(parts)

    def judgements(self, model: str | None = None) -> pd.DataFrame:
        """One row per pair of replies to a held-out conversation, by model and judge."""
        return self._tables("judgements", JUDGEMENTS, model, None)

    def answers(
        self, model: str | None = None, split: str = "test", round: int | None = None
    ) -> pd.DataFrame:
        """One row per question of a split and model; round 0 is the base model."""
        found: dict[tuple[int | None, str], list[Path]] = {}
        for a in self.find("answers", round, model, split):
            found.setdefault((a.round, a.model), []).append(a.folder)
        asking = Asking.from_section(self.experiment["mmlu"])
        parts = [
            read_answers(folders, asking).assign(round=number, model=name)
            for (number, name), folders in found.items()
        ]
        return _joined(parts)

    def mixtures(self, round: int | None = None) -> pd.DataFrame:
        """One row per method of mixing the models' answers and question of the split test."""
        return self._by_round("mixture", ANSWERS, round)

    def speeds(self, model: str | None = None) -> pd.DataFrame:
        """One row per model, variant, lengths and batch size: seconds and memory."""
        parts = [
            pd.DataFrame(read_records(a.folder / SPEEDS)).assign(model=a.model, variant=a.variant)
            for a in self.find("speeds", model=model)
        ]
        return _joined(parts)

    def oracle_items(self) -> pd.DataFrame:
        """One row per rated item of the demo's held-out topics, with its score by the oracle."""
        return pd.read_parquet(self.folder("oracle") / ITEMS)

    def summary(self) -> dict[str, Any]:
        """The experiment's figures, as the report states them (docs/summary.md)."""
        return self.json("report", "summary.json")

    def _by_round(self, stage: str, file: str, round: int | None) -> pd.DataFrame:
        """A parquet file of a stage's artifacts, with a column round."""
        found = self.find(stage, round)
        return _joined(pd.read_parquet(a.folder / file).assign(round=a.round) for a in found)

    def _tables(self, stage: str, file: str, model: str | None, round: int | None) -> pd.DataFrame:
        """A parquet file of a stage's artifacts, with columns round and model."""
        parts = [
            pd.read_parquet(a.folder / file).assign(round=a.round, model=a.model)
            for a in self.find(stage, round, model)
        ]
        return _joined(parts)


def _joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts, with the columns that name them first."""
    table = pd.concat(parts, ignore_index=True)
    first = [name for name in ("round", "model") if name in table]
    return table[[*first, *(name for name in table if name not in first)]]
