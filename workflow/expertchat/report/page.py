"""Renders the page: the sections in the order of the stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expertchat.report import (
    cost,
    dialogues,
    judgements,
    mixture,
    mmlu,
    oracle,
    policies,
    preferences,
    provenance,
    ratings,
    reliability,
    replies,
    rewards,
    rounds,
    sft,
    speeds,
    topics,
    transcripts,
)
from expertchat.report.blocks import Section
from expertchat.report.cards import panels
from expertchat.report.cautions import cautions
from expertchat.report.results import Results
from expertchat.report.wording import counted, visible
from expertchat.results import ExperimentResults


def write_report(summary: Mapping[str, Any], run: ExperimentResults, path: Path) -> None:
    """Writes the page to `path` as one HTML file that refers to no other file.

    `summary` is the result of `summary.summarise(run)`. Equal input gives equal bytes.
    """
    results = Results(summary, run)
    page = environment().get_template("page.html.jinja")
    html = page.render(
        summary=summary,
        models=[results.name(name) for name in results.models],
        subtitle=subtitle(results),
        panels=panels(results),
        cautions=cautions(results),
        sections=sections(results),
        finished=max(m["finished"] for m in provenance.manifests(results))[:10],
    )
    path.write_text(html, encoding="utf-8")


def subtitle(results: Results) -> str:
    """The size of the experiment, in a few words."""
    if results.run.has("preferences"):
        return "human preferences"
    if results.rounds:
        return counted(results.rounds, "round")
    if results.run.transcripts:
        return counted(results.summary["transcripts"]["dialogues"], "transcript")
    if results.run.has("dialogues"):
        return "no tuning"
    if results.run.has("speeds") and not results.summary["mmlu"]:
        return "speed and memory"
    if not results.summary["mmlu"]:
        return "fine-tuning on instructions"
    return counted(results.summary["mmlu"][0]["questions"], "question")


STAGES = (
    sft,
    preferences,
    topics,
    dialogues,
    ratings,
    reliability,
    rewards,
    policies,
    replies,
    judgements,
    mmlu,
    mixture,
    speeds,
)


def sections(results: Results) -> list[Section]:
    """One section per stage that ran; a section on the rounds if there are several."""
    if results.run.transcripts:
        own = (transcripts.dialogue_section, transcripts.rating_section)
        others = (reliability, cost, provenance)
        return [make(results) for make in (*own, *(module.section for module in others))]
    by_round = [rounds] if results.rounds > 1 else []
    stages = [module for module in STAGES if results.run.has(module.__name__.rpartition(".")[2])]
    if results.run.has("judgements"):
        stages.remove(replies)  # it compares replies to dialogues; judgements shows the others
    tuned = [oracle] if results.rounds and results.run.has("dialogues") else []
    return [module.section(results) for module in (*by_round, *stages, *tuned, cost, provenance)]


def environment() -> Environment:
    """Templates that escape all values and replace invisible characters by their code points."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
