"""What a section is made of; the template blocks.html.jinja draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class ModelName:
    """A model's name, shown beside its colour; `place` is its place among the models."""

    name: str
    place: int


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Figure:
    """A drawing by `plots.plot`, its title, and what it shows in a sentence."""

    svg: Markup
    title: str
    note: str = ""
    model: ModelName | None = None


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    legend: Sequence[tuple[str, str]] = ()  # (mark, meaning); marks are classes of the style sheet


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns are words, the others numbers."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: int = 1
    note: str = ""


@dataclass(frozen=True)
class Turn:
    """What one model said; `marks` are short remarks beside it, `cut` says that it did not end."""

    speaker: ModelName
    text: str
    cut: bool = False
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Side:
    """One column of a comparison."""

    title: str
    turns: Sequence[Turn]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """Sides on the same matter; `before` is what was said before all of them."""

    title: str
    subtitle: str
    sides: Sequence[Side]
    before: Sequence[Turn] = ()


@dataclass(frozen=True)
class Comparisons:
    """Comparisons below each other; `note` says how they were chosen."""

    kind: ClassVar[str] = "comparisons"
    items: Sequence[Comparison]
    note: str = ""


@dataclass(frozen=True)
class Pre:
    """Text in which spaces and lines count."""

    kind: ClassVar[str] = "pre"
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks behind a title that opens them."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """A section of the page, named as its stage."""

    name: str
    lead: str
    blocks: list[Any] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name as a heading."""
        return self.name.upper() if self.name == "mmlu" else self.name.capitalize()
