"""Taxonomies: the subjects, audiences and kinds of question from which topics are made.

A taxonomy is a list in the settings or a YAML file with the key `subjects` (a list, or lists by group)
and, where wanted, `audiences` and `kinds` (lists).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.settings.topics import Topics
from expertchat.settings.yaml_files import read_yaml
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.topics.files import FileTopic, file_splits, read_topic_file

FOLDER = "config/taxonomies"
KEYS = ("subjects", "audiences", "kinds")


@dataclass(frozen=True)
class Taxonomy:
    """What topics are made of. `groups`: subject -> its group, "" where there are none.

    `audiences` and `kinds` hold one empty text where none is named.
    """

    groups: dict[str, str]
    audiences: list[str]
    kinds: list[str]
    held_out: list[str]

    @property
    def subjects(self) -> list[str]:
        """All subjects, in order."""
        return list(self.groups)


def choose_taxonomy(settings: Topics, root: Path) -> Taxonomy:
    """The taxonomy that the settings ask for; relative paths count from `root`.

    The user's own file of topics is read too, whole, so that its faults show before any job starts.
    Raises UserError with the key, or with file and line, for what is missing or malformed.
    """
    if settings.file is not None:
        topics = read_topic_file(root / settings.file.path)
        if settings.file.mode == "replace":
            return file_taxonomy(topics, settings)
    if isinstance(settings.subjects, str):
        found = read_taxonomy(_place(settings.subjects, root))
    else:
        found = {"subjects": settings.subjects}
    groups = _groups(found["subjects"], "topics.subjects")
    if not groups:
        raise UserError("topics.subjects: it is empty; name subjects, or a taxonomy such as mmlu")
    return Taxonomy(
        groups,
        settings.audiences or found.get("audiences") or [""],
        settings.kinds or found.get("kinds") or [""],
        held_out_subjects(groups, settings.held_out_subjects),
    )


def _place(name: str, root: Path) -> Path:
    """The file of a taxonomy that is given by its name or its path."""
    given = Path(name).suffix in (".yaml", ".yml")
    path = root / (name if given else f"{FOLDER}/{name}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (root / FOLDER).glob("*.yaml")))
        raise UserError(f"topics.subjects: {name}; no such file, and the taxonomies are {known}")
    return path


def read_taxonomy(path: Path) -> dict[str, Any]:
    """The keys of a taxonomy's file. Raises UserError for anything that is not as it should be."""
    found = read_yaml(path)
    if not found.get("subjects"):
        raise UserError(f"{path}: it names no subjects; see {FOLDER}/mmlu.yaml for an example")
    for key in found:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: unknown key; known are {', '.join(KEYS)}")
    for key in ("audiences", "kinds"):
        _check_texts(found.get(key, []), f"{path}: {key}")
    _groups(found["subjects"], f"{path}: subjects")
    return found


def _groups(subjects: Any, place: str) -> dict[str, str]:
    """subject -> group."""
    by_group = subjects if isinstance(subjects, Mapping) else {"": subjects}
    found: dict[str, str] = {}
    for group, members in by_group.items():
        _check_texts(members, f"{place}: {group}" if group else place)
        for subject in members:
            if subject in found:
                raise UserError(f"{place}: {subject!r} stands twice")
            found[subject] = str(group)
    return found


def _check_texts(values: Any, place: str) -> None:
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise UserError(f"{place}: a list of texts is needed")


def held_out_subjects(groups: Mapping[str, str], count: int) -> list[str]:
    """`count` subjects to be held out: the last of each group in turn, the first group first.

    Without groups these are the last ones. In the order of `groups`. Raises UserError where none would
    be left to train on.
    """
    if count >= len(groups):
        raise UserError(
            f"topics.held_out_subjects: {count}; must be less than the number of "
            f"subjects, {len(groups)}, so that some are left to train on"
        )
    left: dict[str, list[str]] = {}
    for subject, group in groups.items():
        left.setdefault(group, []).append(subject)
    chosen: set[str] = set()
    while len(chosen) < count:
        for members in left.values():
            if members and len(chosen) < count:
                chosen.add(members.pop())
    return [subject for subject in groups if subject in chosen]


def file_taxonomy(topics: Sequence[FileTopic], settings: Topics) -> Taxonomy:
    """The taxonomy of a file that replaces all topics: its own subjects, in their order.

    Of the subjects of topics that name no split the last ones are held out. Raises UserError where no
    topic would be held out, or none left to train on.
    """
    groups = {topic.subject or settings.file.subject: "" for topic in topics}
    undecided = {topic.subject: "" for topic in topics if topic.subject and not topic.split}
    held_out = held_out_subjects(undecided, settings.held_out_subjects) if undecided else []
    missing = {TRAIN, HELD_OUT} - set(file_splits(topics, held_out, settings.file))
    if missing:
        raise UserError(
            f"topics.file.path: {settings.file.path}; none of its {len(topics)} topics is "
            f"{min(missing)}; give it a column split, or more topics"
        )
    return Taxonomy(groups, [""], [""], held_out)
