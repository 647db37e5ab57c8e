"""Each prompt is rendered once when an experiment is planned, with values such as it will get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateSyntaxError

from expertchat import prompts
from expertchat.foreign import one_line
from expertchat.limits import within

SECONDS = 5.0  # for one prompt; all others take milliseconds
MOST_CHARACTERS = 1_000_000  # of a rendered prompt
SHOWN_CHARACTERS = 200  # of an error

TURN = {"label": "A", "text": "I weigh the flour."}
SAMPLES: dict[str, object] = {  # a value for each name in `prompts.VALUES`
    **dict.fromkeys(
        ("topic", "subject", "audience", "kind", "note", "category", "description"), "words"
    ),
    **dict.fromkeys(("worst", "best"), "words"),
    "taken": ["Does rye need more water than wheat?"],
    "turns": [TURN, TURN | {"label": "B"}],
    "rated": "A",
    "scope": "dialogue",
    "low": 0,
    "high": 9,
    "fence": "#7f3a",
}


def trial_faults(path: Path, name: str) -> Iterator[str]:
    """What goes wrong when the prompt file at `path` is rendered as the prompt `name`; at most one
    sentence, with the file and, if it is known, the line."""
    allowed = prompts.VALUES.get(name, prompts.VALUES["opening"])
    values = {key: SAMPLES[key] for key in sorted(allowed)}
    text = path.read_text(encoding="utf-8")

    def rendered() -> int:
        return sum(len(message["content"]) for message in prompts.messages(text, **values))

    try:
        length = within(SECONDS, rendered)
    except TimeoutError:
        yield f"{path}: it is not rendered within {SECONDS:g} seconds: look for a loop without an end"
    except TemplateSyntaxError as error:
        yield f"{path}, line {error.lineno}: {error.message}"
    except Exception as error:  # a template can raise anything
        words = one_line(f"{type(error).__name__}: {error}", SHOWN_CHARACTERS)
        line = prompts.error_line(text, error)
        yield f"{path}{f', line {line}' if line else ''}: it cannot be rendered: {words}"
    else:
        if length > MOST_CHARACTERS:
            yield (
                f"{path}: it is rendered to {length:,} characters; at most {MOST_CHARACTERS:,} are "
                "allowed"
            )
