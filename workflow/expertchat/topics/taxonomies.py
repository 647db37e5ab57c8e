"""Taxonomies: the subjects, audiences and kinds of question that topics are combined from.

A taxonomy is a list of subjects in the settings, or a YAML file with the key `subjects` (a list, or a
mapping of groups to lists) and the optional keys `audiences` and `kinds` (lists).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.foreign import one_line
from expertchat.settings.topics import TopicFile, Topics
from expertchat.settings.yaml_files import read_yaml
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.topics.files import FileTopic, draw_file_topics, file_splits, read_topic_file

FOLDER = "config/taxonomies"
KEYS = ("subjects", "audiences", "kinds")


@dataclass(frozen=True)
class Taxonomy:
    """What topics are combined from. `groups` maps each subject to its group, "" if there are no groups.

    `audiences` and `kinds` are [""] if none are named. `held_out` are the held-out subjects.
    """

    groups: dict[str, str]
    audiences: list[str]
    kinds: list[str]
    held_out: list[str]

    @property
    def subjects(self) -> list[str]:
        """All subjects, in their order."""
        return list(self.groups)


def choose_taxonomy(settings: Topics, root: Path, seed: int) -> Taxonomy:
    """The taxonomy that the settings name; relative paths start at `root`.

    With `topics.file.max_subjects`, the subjects of a file are drawn with the experiment's `seed`.

    The user's own topic file is read as well, so that errors in it are found before any job starts.
    Raises UserError with the key, or with file and line, if something is missing or malformed.
    """
    if settings.file is not None:
        topics = topics_of(root / settings.file.path, "topics.file.path")
        if settings.file.mode == "replace":
            drawn = draw_file_topics(topics, settings.file, seed)
            return file_taxonomy(drawn, settings.file, settings.held_out_subjects)
    if isinstance(settings.subjects, str):
        content = read_taxonomy(_taxonomy_path(settings.subjects, root))
    else:
        content = {"subjects": settings.subjects}
    groups = _groups(content["subjects"], "topics.subjects")
    if not groups:
        raise UserError("topics.subjects: the list is empty; name subjects, or a taxonomy such as mmlu")
    return Taxonomy(
        groups,
        settings.audiences or content.get("audiences") or [""],
        settings.kinds or content.get("kinds") or [""],
        held_out_subjects(groups, settings.held_out_subjects),
    )


def topics_of(path: Path, key: str) -> list[FileTopic]:
    """The topics of a file. Raises UserError with `key`, the setting that names it."""
    try:
        return read_topic_file(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _taxonomy_path(name: str, root: Path) -> Path:
    """The file of a taxonomy that is given by its name or by its path."""
    is_path = Path(name).suffix in (".yaml", ".yml")
    path = root / (name if is_path else f"{FOLDER}/{name}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (root / FOLDER).glob("*.yaml")))
        raise UserError(
            f"topics.subjects: {one_line(name, 300)}; no such file; known taxonomies: {known}"
        )
    return path


def read_taxonomy(path: Path) -> dict[str, Any]:
    """The content of a taxonomy file. Raises UserError with file and key if it is malformed."""
    content = read_yaml(path)
    if not content.get("subjects"):
        raise UserError(f"{path}: the key subjects is missing or empty; see {FOLDER}/mmlu.yaml")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: unknown key; known: {', '.join(KEYS)}")
    for key in ("audiences", "kinds"):
        _check_texts(content.get(key, []), f"{path}: {key}")
    _groups(content["subjects"], f"{path}: subjects")
    return content


def _groups(subjects: Any, where: str) -> dict[str, str]:
    """{subject: group}, with the group "" for a plain list of subjects."""
    by_group = subjects if isinstance(subjects, Mapping) else {"": subjects}
    groups: dict[str, str] = {}
    for group, members in by_group.items():
        _check_texts(members, f"{where}: {group}" if group else where)
        for subject in members:
            if subject in groups:
                raise UserError(f"{where}: {subject!r} is listed twice")
            groups[subject] = str(group)
    return groups


def _check_texts(values: Any, where: str) -> None:
    if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
        raise UserError(f"{where}: must be a list of non-empty strings")


def held_out_subjects(groups: Mapping[str, str], count: int) -> list[str]:
    """The `count` subjects to hold out, in the order of `groups`.

    Groups take turns, beginning with the first, and each gives its last remaining subject. Without
    groups, the last subjects are held out. Raises UserError if none would be left to train on.
    """
    if count >= len(groups):
        raise UserError(
            f"topics.held_out_subjects: {count}; must be less than the number of "
            f"subjects ({len(groups)}), so that some are left to train on"
        )
    remaining: dict[str, list[str]] = {}
    for subject, group in groups.items():
        remaining.setdefault(group, []).append(subject)
    chosen: set[str] = set()
    while len(chosen) < count:
        for members in remaining.values():
            if members and len(chosen) < count:
                chosen.add(members.pop())
    return [subject for subject in groups if subject in chosen]


def file_taxonomy(topics: Sequence[FileTopic], file: TopicFile, held_out_count: int) -> Taxonomy:
    """The taxonomy of a topic file with mode `replace`: its own subjects, in their order.

    Of the subjects of topics without a split of their own, the last `held_out_count` are held out.
    Raises UserError if no topic would be held out, or none would be left to train on.
    """
    groups = {topic.subject or file.subject: "" for topic in topics}
    undecided = {topic.subject: "" for topic in topics if topic.subject and not topic.split}
    held_out = held_out_subjects(undecided, held_out_count) if undecided else []
    missing = {TRAIN, HELD_OUT} - set(file_splits(topics, held_out, file))
    if missing:
        raise UserError(
            f"topics.file.path: {file.path}; none of its {len(topics)} topics has the split "
            f"{min(missing)}; add a column split, or more topics"
        )
    return Taxonomy(groups, [""], [""], held_out)
