"""The blocks that sections consist of; the template blocks.html.jinja renders each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class ModelName:
    """A model's name, shown with its colour; `color` is the index of the colour in the palette."""

    name: str
    color: int


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Figure:
    """A plot made by `plots.plot`, with its title and a note for its caption."""

    svg: Markup
    title: str
    note: str = ""
    model: ModelName | None = None


@dataclass(frozen=True)
class Figures:
    """Figures, side by side if the page is wide enough."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    legend: Sequence[tuple[str, str]] = ()  # (mark, meaning); a mark is a class of the style sheet


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns contain text, the others numbers."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text_columns: int = 1
    note: str = ""


@dataclass(frozen=True)
class Turn:
    """One model's turn. `cut`: it reached the token limit; `marks`: short remarks shown with it."""

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
    """Alternatives side by side, for example before and after tuning.

    `before`: the turns that precede all of them.
    """

    title: str
    subtitle: str
    sides: Sequence[Side]
    before: Sequence[Turn] = ()


@dataclass(frozen=True)
class Comparisons:
    """Comparisons, one below the other; `note` says how they were selected."""

    kind: ClassVar[str] = "comparisons"
    items: Sequence[Comparison]
    note: str = ""


@dataclass(frozen=True)
class Pre:
    """Preformatted text."""

    kind: ClassVar[str] = "pre"
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are hidden until the reader opens the title."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """A section of the page, named after its stage."""

    name: str
    lead: str
    blocks: list[Any] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name as a heading."""
        return self.name.upper() if self.name in ("mmlu", "sft") else self.name.capitalize()
