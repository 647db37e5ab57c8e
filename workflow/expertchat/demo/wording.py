"""Fast rendering of the workflow's prompts for many documents.

Rendering a template takes about a millisecond, and a corpus needs tens of thousands of prompts. So each
template is rendered once with markers in place of the values, and the markers are then replaced.
"""

from __future__ import annotations

from functools import cache

from expertchat.prompts import fill, rating_values

LOW, HIGH = 0, 9  # the scale of the demo's ratings: one digit, one token


@cache
def _with_markers(template: str, names: tuple[str, ...]) -> str:
    """The rendered template with a marker in place of each value."""
    return fill(template, **{name: f"\0{name}\0" for name in names})


def fill_cached(template: str, **values: str) -> str:
    """The same as `prompts.fill`, for templates that print values but have no conditions on them."""
    text = _with_markers(template, tuple(values))
    for name, value in values.items():
        text = text.replace(f"\0{name}\0", value)
    return text


@cache
def _rating_with_markers(
    template: str, labels: tuple[str, ...], rated: str, scope: str, category: str
) -> str:
    """The rendered rating prompt with a marker in place of the topic and of each turn's text."""
    values = rating_values(
        topic="\0topic\0",
        turns=[(label, f"\0{i}\0") for i, label in enumerate(labels)],
        rated=rated,
        scope=scope,
        category=category,
        description="",
        low=LOW,
        high=HIGH,
    )
    return fill(template, **values)


def rating_prompt_cached(
    template: str,
    topic: str,
    turns: list[tuple[str, str]],
    rated: str,
    scope: str,
    category: str,
) -> str:
    """The user's text of a rating prompt on the demo's scale; `turns` are pairs (label, text)."""
    labels = tuple(label for label, _ in turns)
    text = _rating_with_markers(template, labels, rated, scope, category)
    text = text.replace("\0topic\0", topic)
    for i, (_, turn) in enumerate(turns):
        text = text.replace(f"\0{i}\0", turn)
    return text
