"""Settings of stage questions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.settings.section import REPOSITORY, FilePath, Section


class DemoQuestions(Section):
    """Questions about the facts of the demo world.

    Example: {source: demo}
    """

    source: Literal["demo"]
    """`demo`: questions about the demo world."""
    seed: int = 0
    """Random seed of the wording, the order and the wrong answers."""


class FolderQuestions(Section):
    """Question files in MMLU's layout: `<split>/<subject>_<split>.csv` without a header line, with
    the splits dev, val and test.

    Example: {source: folder, path: data/mmlu, subjects: [astronomy, virology]}
    """

    source: Literal["folder"]
    """`folder`: question files in a local folder."""
    path: FilePath
    """The folder that contains dev/, val/ and test/."""
    subjects: list[str] = []
    """Subjects whose questions are used; empty: all."""


class HubQuestions(Section):
    """A data set of the Hugging Face hub in the schema of cais/mmlu, downloaded by the Snakemake
    process.

    Example: {source: hub, repository: cais/mmlu, revision: main}
    """

    source: Literal["hub"]
    """`hub`: a data set of the Hugging Face hub."""
    repository: str = Field(pattern=REPOSITORY)
    """The data set, as owner/name."""
    revision: str
    """Branch, tag or commit. With a commit, the experiment can be repeated exactly."""
    subjects: list[str] = []
    """Subjects whose questions are used; empty: all."""


class MadeUpQuestions(Section):
    """A few made-up questions per subject without right answers, which `shrink` puts in place of those
    of the hub.

    Example: {source: made-up, subjects: [astronomy, virology]}
    """

    source: Literal["made-up"]
    """`made-up`: questions without content."""
    subjects: list[str] = ["astronomy", "philosophy", "virology"]
    """Subjects of the questions."""


Questions = Annotated[
    DemoQuestions | FolderQuestions | HubQuestions | MadeUpQuestions, Field(discriminator="source")
]
