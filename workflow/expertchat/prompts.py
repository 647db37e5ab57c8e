"""The prompts: Jinja files that hold every word the models are told.

The files' texts are part of a stage's settings, so that a changed word makes new results.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from expertchat.errors import UserError

NAMES = ("topic", "opening", "rating")  # beside the roles'

_environment = SandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


def read_prompts(folder: Path) -> dict[str, str]:
    """The texts of the folder's `<name>.jinja` files, by name: `NAMES` and the roles."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def read_chat_template(path: Path, where: str) -> str:
    """The text of a chat template's file. Raises UserError, naming the setting `where`.

    It is not parsed here: transformers knows more tags than Jinja.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{where}: {path} cannot be read ({error.strerror}); say plain, or name a Jinja file"
        ) from None


def fill(template: str, **values: object) -> str:
    """`template` with `values` filled in, without outer white space. Unknown names are an error."""
    return _compiled(template).render(**values).strip()


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
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
) -> str:
    """The question to a rater about one speaker in one category.

    `turns` are (label, text) with neutral labels such as "A" and "B", `rated` is the label that is
    judged, `scope` is "dialogue" (all of its turns) or "reply" (its last turn only).
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
    )
