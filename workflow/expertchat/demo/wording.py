"""The workflow's prompts, filled in for many documents at small cost.

Rendering a template takes about a millisecond, and a corpus needs tens of thousands of them. So each
template is rendered once with markers in place of its values, and the markers are replaced.
"""

from __future__ import annotations

from functools import cache

from expertchat.prompts import fill, rating_prompt

LOW, HIGH = 0, 9  # the scale of the demo's ratings: one digit, one token


@cache
def _sketch(template: str, names: tuple[str, ...]) -> str:
    return fill(template, **{name: f"\0{name}\0" for name in names})


def filled(template: str, **values: str) -> str:
    """What `prompts.fill` gives for these values, which the template may print but not test."""
    text = _sketch(template, tuple(values))
    for name, value in values.items():
        text = text.replace(f"\0{name}\0", value)
    return text


@cache
def _rating_sketch(template: str, labels: tuple[str, ...], rated: str, scope: str, category: str) -> str:
    return rating_prompt(
        template,
        topic="\0topic\0",
        turns=[(label, f"\0{i}\0") for i, label in enumerate(labels)],
        rated=rated,
        scope=scope,
        category=category,
        description="",
        low=LOW,
        high=HIGH,
    )


def rating_text(
    template: str,
    topic: str,
    turns: list[tuple[str, str]],
    rated: str,
    scope: str,
    category: str,
) -> str:
    """What `prompts.rating_prompt` gives on the demo's scale."""
    labels = tuple(label for label, _ in turns)
    text = _rating_sketch(template, labels, rated, scope, category)
    text = text.replace("\0topic\0", topic)
    for i, (_, said) in enumerate(turns):
        text = text.replace(f"\0{i}\0", said)
    return text
