"""The order of subjects on the page: in groups, and within a group by accuracy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from expertchat.mmlu.categories import CATEGORIES, HARNESS
from expertchat.records import read_records
from expertchat.report.results import Results
from expertchat.splits import HELD_OUT

MAX_ROWS = 30  # of one plot; more rows are split into two plots

Group = tuple[str, list[str]]  # title ("" if there is only one group), subjects


def title(subject: str) -> str:
    """A subject's name for display."""
    return subject.replace("_", " ")


def short_title(subject: str) -> str:
    """As `title`, shortened for plots: the names of MMLU's 14 high school subjects are the longest."""
    return title(subject).replace("high school ", "HS ") if subject in HARNESS else title(subject)


def category_title(category: str) -> str:
    """An MMLU category's name for display."""
    return "STEM" if category == "stem" else title(category)


def taught(results: Results) -> dict[str, set[str]]:
    """The subjects asked about that each demo model was taught; models without any are left out."""
    knows = results.settings["knows"]
    asked = set(results.scores(0)["models"][results.models[0]]["by_subject"])
    by_model = {name: {s.replace(" ", "_") for s in knows.get(name) or []} for name in results.models}
    return {name: subjects & asked for name, subjects in by_model.items() if subjects & asked}


def grouped(results: Results, subjects: Sequence[str], accuracy: Mapping[str, float]) -> list[Group]:
    """The subjects in groups, in each the best first: MMLU's by category, others by model taught."""
    known = taught(results)
    groups: dict[str, list[str]] = {}
    for subject in sorted(subjects, key=lambda s: (-accuracy[s], s)):
        groups.setdefault(_group(subject, known), []).append(subject)
    order = [*map(category_title, CATEGORIES), *(f"taught to {name}" for name in results.models)]
    ranks = {name: rank for rank, name in enumerate(order)}
    return sorted(groups.items(), key=lambda group: ranks.get(group[0], len(order)))


def _group(subject: str, known: Mapping[str, Collection[str]]) -> str:
    if subject in HARNESS:
        return category_title(HARNESS[subject])
    if not known:
        return ""
    names = [name for name, subjects in known.items() if subject in subjects]
    return f"taught to {' and '.join(names)}" if names else "taught to no model"


def columns(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups in one column or, if they are long, in two columns of similar length."""
    sizes = [len(subjects) + 1 for _, subjects in groups]
    if sum(sizes) <= MAX_ROWS or len(groups) < 2:
        return [list(groups)]
    cuts = range(1, len(groups))
    cut = min(cuts, key=lambda k: max(sum(sizes[:k]), sum(sizes[k:])))
    return [list(groups[:cut]), list(groups[cut:])]


def held_out_subjects(results: Results) -> set[str]:
    """The subjects whose topics were held out."""
    if results.artifacts["topics"] is None:
        return set()
    topics = read_records(results.artifacts["topics"] / "topics.jsonl")
    return {topic["subject"].replace(" ", "_") for topic in topics if topic["split"] == HELD_OUT}
