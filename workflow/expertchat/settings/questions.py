"""Settings of stage questions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.settings.section import Section


class DemoQuestions(Section):
    """Questions on the demo world's facts."""

    source: Literal["demo"]
    """Chooses this kind of questions."""
    seed: int = 0
    """Seed of wording, order and wrong answers."""


class FolderQuestions(Section):
    """Questions in MMLU's layout: {dev,val,test}/<subject>_<split>.csv without header."""

    source: Literal["folder"]
    """Chooses this kind of questions."""
    path: str
    """The folder that holds dev/, val/ and test/."""
    subjects: list[str] = []
    """Subjects to ask; empty: all."""


class HubQuestions(Section):
    """Questions of a hub's data set in the schema of cais/mmlu, fetched where snakemake runs."""

    source: Literal["hub"]
    """Chooses this kind of questions."""
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """The data set, as owner/name."""
    revision: str
    """Branch, tag or commit; a commit makes the experiment repeatable."""
    subjects: list[str] = []
    """Subjects to ask; empty: all."""


Questions = Annotated[DemoQuestions | FolderQuestions | HubQuestions, Field(discriminator="source")]
