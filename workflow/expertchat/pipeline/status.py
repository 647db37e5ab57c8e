"""The state of each artifact of a plan: finished, being made, interrupted, failed or not begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from expertchat.checkpoints import CHECKSUMS
from expertchat.pipeline.locks import lock_holder
from expertchat.pipeline.logs import last_error, log_path
from expertchat.pipeline.plan import STAGES, Plan
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import manifest_path, work_path

STATES = ("done", "running", "resumable", "failed", "waiting")
MOST_DETAILS = 3  # artifacts of one stage and round that the short form describes


@dataclass(frozen=True)
class ArtifactStatus:
    """One artifact of a plan and what is known about its job."""

    recipe: Recipe
    heading: str  # "base models", "round 1" or "report"; "" in a plan without rounds
    state: str  # one of STATES
    detail: str = ""  # running: the process; failed: the error at the end of the log, and the log
    resumes: bool = False  # an interrupted or failed job left checkpoints


def list_artifacts(plan: Plan) -> list[ArtifactStatus]:
    """The artifacts of a plan with their states, by round and stage."""
    return [
        ArtifactStatus(plan.recipes[reference], heading, *_state(plan.store, reference))
        for reference, heading in _headings(plan).items()
    ]


def _headings(plan: Plan) -> dict[str, str]:
    """Reference -> heading, in the order of display."""
    rounds = {
        reference: int(path.split("/")[0].removeprefix("round-"))
        for path, reference in plan.views.items()
        if path.startswith("round-")
    }
    after = max(rounds.values(), default=0) + 1

    def position(reference: str) -> tuple[int, int]:
        stage = plan.recipes[reference].stage
        other = after if stage in ("oracle", "report") else 0
        return rounds.get(reference, other), STAGES.index(stage)

    def heading(reference: str) -> str:
        number = position(reference)[0]
        names = {0: "base models", after: "report"}
        return names.get(number, f"round {number}") if rounds else ""

    return {reference: heading(reference) for reference in sorted(plan.recipes, key=position)}


def _state(store: Path, reference: str) -> tuple[str, str, bool]:
    """The last three fields of an `ArtifactStatus`."""
    if manifest_path(store, reference).exists():
        return "done", "", False
    work = work_path(store, reference)
    process = lock_holder(work)
    if process is not None:
        return "running", process, False
    checkpoints = work / "checkpoints"
    resumes = any(checkpoints.rglob(CHECKSUMS))
    error = last_error(store, reference)
    if error is not None:
        return "failed", f"{error} ({log_path(store, reference)})", resumes
    return ("resumable" if resumes else "waiting"), "", resumes


def plan_lines(artifacts: Sequence[ArtifactStatus]) -> Iterator[str]:
    """One line per artifact under the headings of the rounds, and the counts."""
    for heading, group in groupby(artifacts, lambda artifact: artifact.heading):
        yield from [heading] if heading else []
        for artifact in group:
            mark = "done" if artifact.state == "done" else ""
            yield f"  {mark:4}  {artifact.recipe.reference:24}  {artifact.recipe.label}"
    done = sum(artifact.state == "done" for artifact in artifacts)
    yield f"{len(artifacts)} artifacts: {done} done, {len(artifacts) - done} to be made"


def status_lines(artifacts: Sequence[ArtifactStatus], every: bool = False) -> Iterator[str]:
    """One line per stage with counts, or one per artifact (`every`); then what a rerun would do."""
    for heading, group in groupby(artifacts, lambda artifact: artifact.heading):
        yield from [heading] if heading else []
        for stage, same_stage in groupby(group, lambda artifact: artifact.recipe.stage):
            members = list(same_stage)
            yield from _all_lines(members) if every else _stage_lines(stage, members)
    yield f"{len(artifacts)} artifacts: {_state_counts(artifacts)}"
    yield from rerun_lines(artifacts)


def _all_lines(artifacts: Iterable[ArtifactStatus]) -> Iterator[str]:
    for artifact in artifacts:
        line = f"  {artifact.state:9}  {artifact.recipe.reference:24}  {artifact.recipe.label}"
        yield line + (f": {artifact.detail}" if artifact.detail else "")


def _stage_lines(stage: str, artifacts: Sequence[ArtifactStatus]) -> Iterator[str]:
    """The counts of a stage, and its running and failed artifacts by name."""
    yield f"  {stage:11}  {_state_counts(artifacts)}"
    detailed = [artifact for artifact in artifacts if artifact.detail]
    for artifact in detailed[:MOST_DETAILS]:
        yield f"{'':15}{artifact.state}: {artifact.recipe.label}: {artifact.detail}"
    if len(detailed) > MOST_DETAILS:
        yield f"{'':15}and {len(detailed) - MOST_DETAILS} more: see expertchat status --all"


def _state_counts(artifacts: Iterable[ArtifactStatus]) -> str:
    """ "3 done, 1 waiting", states without artifacts left out."""
    counts = Counter(artifact.state for artifact in artifacts)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def rerun_lines(artifacts: Sequence[ArtifactStatus]) -> Iterator[str]:
    """What snakemake would do if it was started again."""
    jobs = [artifact for artifact in artifacts if artifact.state not in ("done", "running")]
    resuming = [artifact for artifact in jobs if artifact.resumes]
    if not jobs:
        yield "A rerun would run no jobs."
        return
    yield f"A rerun would run {_jobs(jobs)}."
    if resuming:
        yield f"Of these, {_jobs(resuming)} would resume from checkpoints."


def _jobs(artifacts: Sequence[ArtifactStatus]) -> str:
    """ "3 jobs (topics 1, ratings 2)"."""
    counts = Counter(artifact.recipe.stage for artifact in artifacts)
    stages = ", ".join(f"{stage} {counts[stage]}" for stage in STAGES if counts[stage])
    return f"{len(artifacts)} job{'s' if len(artifacts) > 1 else ''} ({stages})"
