"""Settings of where records of others come from: a local file, or a file of the Hugging Face hub."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.section import REPOSITORY, FilePath, Section


class LocalFile(Section):
    """A local data file.

    Example: {source: file, path: data/records.jsonl}
    """

    source: Literal["file"]
    """`file`: a local file."""
    path: FilePath
    """The file: .json (one array), .jsonl (an object per line), or one of these as .gz."""


class MadeUpFile(Section):
    """A file of made-up records, for rehearsals.

    Example: {source: made-up}
    """

    source: Literal["made-up"]
    """`made-up`: a few records without content, in the data set's format."""


class HubFile(Section):
    """A file of a data set of the Hugging Face hub.

    Example: {source: hub, repository: owner/name, revision: main, file: records.jsonl}
    """

    source: Literal["hub"]
    """`hub`: a file of a data set of the Hugging Face hub."""
    repository: str = Field(pattern=REPOSITORY)
    """The data set, as owner/name."""
    revision: str
    """Branch, tag or commit. With a commit, the experiment can be repeated exactly."""
    file: str
    """The file within the data set: .json, .jsonl, or one of these as .gz."""
