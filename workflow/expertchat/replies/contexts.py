"""The contexts that a job replies to: turns of dialogues, or conversations of preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.contexts import OpenContext
from expertchat.dialogues.artifact import DIALOGUES
from expertchat.dialogues.contexts import contexts_of, opened
from expertchat.preferences.artifact import preferred_contexts
from expertchat.records import read_all


def contexts_for(
    settings: Mapping[str, Any], dialogues: Sequence[Path], preferences: Path | None, split: str
) -> list[OpenContext]:
    """The contexts of a split in artifacts of stage dialogues, or in one of stage preferences.

    `settings` of dialogues: {speaker: the model that replies, turns: the numbers of its turns, prompts:
    the templates by name}.
    """
    if preferences is not None:
        return preferred_contexts(preferences, split)
    spoken = read_all(dialogues, DIALOGUES)
    own = contexts_of(spoken, settings["speaker"], split, settings["turns"])
    return [opened(context, settings["prompts"]) for context in own]
