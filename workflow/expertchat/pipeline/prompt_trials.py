"""Each prompt is rendered once when an experiment is planned, with values such as it will get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateSyntaxError

from expertchat import prompts
from expertchat.foreign import one_line

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
    outcome: list[object] = []

    def render() -> None:
        try:
            outcome.append(sum(len(m["content"]) for m in prompts.messages(text, **values)))
        except Exception as error:  # a template can raise anything
            outcome.append(error)

    # a template that does not end cannot be stopped, but the process that plans ends with the message
    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcome:
        yield f"{path}: it is not rendered within {SECONDS:g} seconds: look for a loop without an end"
    elif isinstance(outcome[0], TemplateSyntaxError):
        yield f"{path}, line {outcome[0].lineno}: {outcome[0].message}"
    elif isinstance(outcome[0], Exception):
        words = one_line(f"{type(outcome[0]).__name__}: {outcome[0]}", SHOWN_CHARACTERS)
        line = prompts.error_line(text, outcome[0])
        yield f"{path}{f', line {line}' if line else ''}: it cannot be rendered: {words}"
    elif isinstance(outcome[0], int) and outcome[0] > MOST_CHARACTERS:
        yield (
            f"{path}: it is rendered to {outcome[0]:,} characters; at most {MOST_CHARACTERS:,} are "
            "allowed"
        )
