"""Prompt templates: Jinja files with all the text that is sent to the models.

The text of the templates is part of a stage's settings, so a changed word leads to new results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from expertchat.errors import UserError

NAMES = ("topic", "opening", "rating")  # in addition to one template per role

TOPIC_VALUES = frozenset({"topic", "subject", "audience", "kind"})
VALUES = {  # the names that a template may use; roles may use those of `opening`
    "topic": TOPIC_VALUES - {"topic"} | {"taken"},
    "opening": TOPIC_VALUES,
    "rating": frozenset(
        {"topic", "turns", "rated", "scope", "category", "description", "low", "high", "worst"}
        | {"best", "fence"}
    ),
}

_environment = SandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


def read_prompts(folder: Path) -> dict[str, str]:
    """{name: text} of all `<name>.jinja` files in the folder: `NAMES` and the roles."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def template_faults(path: Path, allowed: Set[str]) -> Iterator[str]:
    """Problems of a template with file and line: its syntax, and names that are not `allowed`."""
    text = path.read_text(encoding="utf-8")
    try:
        names = meta.find_undeclared_variables(_environment.parse(text))
    except TemplateSyntaxError as error:
        yield f"{path}, line {error.lineno}: {error.message}"
        return
    for name in sorted(names - allowed):
        found = re.search(rf"\b{re.escape(name)}\b", text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        yield f"{path}, line {line}: unknown name {name!r}; known: {', '.join(sorted(allowed))}"


def read_chat_template(path: Path, where: str) -> str:
    """The text of a chat template file. `where` is the setting that names the file.

    The template is not parsed here, because transformers supports more tags than Jinja does. Raises
    UserError if the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{where}: {path} cannot be read ({error.strerror}); use plain, or the path of a Jinja file"
        ) from None


def fill(template: str, **values: object) -> str:
    """`template` rendered with `values` and stripped of outer white space.

    Raises jinja2.UndefinedError if the template uses a name that `values` does not contain.
    """
    return _compiled(template).render(**values).strip()


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    """The compiled template, cached because compiling takes a hundred times as long as rendering."""
    return _environment.from_string(template)


def rating_prompt(
    template: str,
    *,
    topic: str,
    turns: list[tuple[str, str]],
    rated: str,
    scope: str,
    category: str,
    description: str,
    low: int,
    high: int,
    worst: str = "",
    best: str = "",
    fence: str = "",
) -> str:
    """The prompt that asks a rater to score one speaker in one category.

    `turns` are (label, text) with neutral labels such as "A" and "B"; `rated` is the label of the
    speaker to judge. `scope` is "dialogue" (all of that speaker's turns) or "reply" (the last turn
    only). `worst` and `best` describe what deserves the scores `low` and `high`. `fence` is a code that
    occurs in none of the texts: the template uses it to mark where each turn begins, and a model that
    wrote a turn cannot forge it.
    """
    return fill(
        template,
        topic=topic,
        turns=[{"label": label, "text": text} for label, text in turns],
        rated=rated,
        scope=scope,
        category=category,
        description=description,
        low=low,
        high=high,
        worst=worst,
        best=best,
        fence=fence,
    )
