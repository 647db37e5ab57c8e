"""How numbers, and text from models or users, appear on the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from expertchat.foreign import shown

ABSENT = "–"


def visible(value: object) -> object:
    """A string as `foreign.shown` gives it. Other values, and markup made by this package, are returned
    unchanged."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else shown(value)


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with a typographic minus sign; a dash if it is missing or not a number."""
    if value is None or value != value:
        return ABSENT
    rounded = round(value, digits) + 0.0  # avoids −0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """A share as a percentage."""
    return ABSENT if value is None or value != value else f"{number(100 * value, digits, sign)} %"


def scaled(value: float | None) -> float | None:
    """A share in percentage points; None stays None."""
    return None if value is None else 100 * value


def p_value(value: float | None) -> str:
    """A p-value; very small ones are shown as "< 0.0001"."""
    if value is None or value != value:
        return ABSENT
    return "< 0.0001" if value < 0.0001 else number(value, 4 if value < 0.01 else 3)


def points(value: float | None) -> str:
    """A change of a share in percentage points."""
    return ABSENT if value is None else f"{number(100 * value, 1, sign=True)} points"


def interval(
    bounds: Sequence[float] | None, digits: int = 2, scale: float = 1, sign: bool = False
) -> str:
    """An interval as "low to high"; a dash if there is none."""
    if bounds is None:
        return ABSENT
    low, high = (number(scale * bound, digits, sign) for bound in bounds)
    return f"{low} to {high}"


def seconds(value: float) -> str:
    """A duration in seconds, minutes or hours, whichever suits its size."""
    if value < 100:
        return f"{value:.{0 if value >= 10 else 1}f} s"
    if value < 100 * 60:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def memory(value: float) -> str:
    """Bytes as MiB or GiB."""
    mebibytes = value / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def counted(count: int, word: str) -> str:
    """ "1 topic", "2,000 topics"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def after_round(round_number: int) -> str:
    """ "base" for 0, else for example "after round 2"."""
    return f"after round {round_number}" if round_number else "base"


def round_label(model: str, round_number: int, rounds: int) -> str:
    """The label of a model's row in a plot: its name, and the round if there are several."""
    return model if rounds == 1 else f"{model}, round {round_number}"
