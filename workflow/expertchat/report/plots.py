"""Plots: one style and one palette, as inline SVG that follows the page's theme.

matplotlib draws with placeholder colours, which are then replaced by the page's CSS variables, so that
one SVG works in light and dark mode. Text stays text: searchable, and escaped by matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from expertchat.report.wording import visible

INK, MUTED, LINE, PAPER, MIXTURE = "#010101", "#020202", "#030303", "#040404", "#050505"
COLORS = tuple(f"#{i:02x}{i:02x}{i:02x}" for i in range(6, 14))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    MIXTURE: "mixture",
    **{color: f"model-{i}" for i, color in enumerate(COLORS)},
}
SHAPES = ("o", "s", "^", "*", "v", "P", "X", "p")
# a model has a colour and a marker shape; with more than eight models both repeat
MODELS, MARKERS = COLORS * 8, SHAPES * 8
WIDTH = 4.4  # inches; fits one column on a phone

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def plot(name: str, height: float, paint: Callable, rows: int = 1, width: float = WIDTH) -> Markup:
    """An SVG of `height` inches. `paint` draws on the axes that it receives, an array if `rows` > 1.

    `name` seeds the SVG's ids: plots with different names share no ids, and equal input gives equal SVG.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
        figure = Figure(figsize=(width, height), layout=layout)
        paint(figure.subplots(rows, sharex=True))
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return themed(out.getvalue())


def themed(svg: str) -> Markup:
    """matplotlib's SVG with the page's colours and font, without ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # not needed in HTML
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', svg, count=1)
    return Markup(visible(re.sub(r"\n\s*", "\n", svg)))


def rows_axis(ax, labels: Sequence[str], *, gap: float = 0.6) -> None:
    """A vertical axis with one labelled row per item, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 1 + gap, -gap)
    ax.tick_params(axis="y", labelcolor=INK)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)


def percent_axis(axis) -> None:
    """Formats shares as percentages."""
    axis.set_major_formatter(lambda value, _: f"{round(100 * value, 1):g} %")


def points_axis(axis) -> None:
    """Formats differences of shares as percentage points."""

    def text(value: float, _) -> str:
        rounded = round(100 * value, 1)
        return f"{rounded:+g}".replace("-", "−") if rounded else "0"

    axis.set_major_formatter(text)


def reference_line(ax, at: float, label: str = "", *, horizontal: bool = False) -> None:
    """A dashed line at a reference value."""
    style = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
    if horizontal:
        ax.axhline(at, **style)
        position = {"xy": (1, at), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        shift = (0, 2)
    else:
        ax.axvline(at, **style)
        position = {"xy": (at, 1), "xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
        shift = (0, 1)
    if label:
        ax.annotate(label, xytext=shift, textcoords="offset points", color=MUTED, fontsize=8, **position)


def interval_row(ax, y: float, value, bounds, model: int, text: str = "") -> None:
    """A value with its interval on row `y`, in the colour and marker of the model with index `model`."""
    if value is None:
        return
    if bounds is not None:
        ax.plot(bounds, [y, y], color=MODELS[model], linewidth=2.4, alpha=0.55, solid_capstyle="round")
    ax.plot([value], [y], MARKERS[model], color=MODELS[model], markersize=7)
    if text:
        ax.annotate(
            text, (1, y), (4, 0), ("axes fraction", "data"), "offset points", va="center", color=INK
        )


def dumbbell(ax, y: float, before: float, after: float, color: str, marker: str) -> None:
    """Two values on row `y`, before (hollow) and after (filled), joined by a line."""
    ax.plot([before, after], [y, y], color=color, linewidth=1.6, alpha=0.5, zorder=2)
    ax.plot([before], [y], marker, color=color, markerfacecolor=PAPER, markersize=6, zorder=3)
    ax.plot([after], [y], marker, color=color, markersize=6, zorder=4)
