"""One check of the doctor: a level, what it is about, and what was found and should be done."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from expertchat.foreign import one_line

OK, WARNING, PROBLEM = "ok", "warning", "problem"
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)  # in a variable's name
SHORTEST_SECRET = 8  # characters; a shorter value is a word like any other
MOST_CHARACTERS = 600  # of a line


@dataclass(frozen=True)
class Check:
    """What was found: `level` is OK, WARNING or PROBLEM."""

    level: str
    subject: str
    words: str

    @property
    def line(self) -> str:
        """The check on one line, without secrets and without the path of the user's home."""
        return f"{self.level:<8} {self.subject}: {one_line(cleared(self.words), MOST_CHARACTERS)}"

    def of(self, place: str) -> Check:
        """The check, made in another place, such as a node."""
        return replace(self, subject=f"{place}, {self.subject}")


def cleared(text: str) -> str:
    """`text` with ~ for the user's home, and names of environment variables for secrets in them."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"(value of {name})")
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if home != "/" else text


def gather(*groups: tuple[str, Callable[[], Iterable[Check]]]) -> Iterator[Check]:
    """The checks of all groups, (subject, function) each. A group that fails is a problem itself: the
    doctor looks at machines on which anything may be broken."""
    for subject, function in groups:
        try:
            yield from function()
        except Exception as error:
            yield Check(PROBLEM, subject, f"this check failed: {type(error).__name__}: {error}")
