"""Plots of the reliability section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from expertchat.ratings.artifact import DIALOGUE, SELF
from expertchat.report.plots import INK, MARKERS, MODELS, MUTED, plot, reference_line, rows_axis
from expertchat.report.results import Results


def injection_plot(effects: Sequence[Mapping[str, Any]]) -> Markup:
    """One row per rater: the effect of all kinds of canaries, with its interval."""

    def paint(ax) -> None:
        for y, row in enumerate(effects):
            if row["interval"]:
                ax.plot(row["interval"], [y, y], color=INK, linewidth=2.4, alpha=0.45)
            ax.plot([row["value"]], [y], MARKERS[0], color=INK, markersize=7)
        reference_line(ax, 0)
        rows_axis(ax, [row["rater"] for row in effects])
        ax.set_xlabel("rating points")

    return plot("reliability injection", 0.7 + 0.3 * len(effects), paint)


def histogram_plot(results: Results, measures: Mapping[str, Any], rater: str) -> Markup:
    """One row per category: the scores that a rater gave to dialogues of others."""
    categories = list(results.settings["weights"])
    counts = {category: np.zeros(1) for category in categories}
    for row in measures["histograms"]:
        if (row["rater"], row["scope"]) == (rater, DIALOGUE) and row["relation"] != SELF:
            counts[row["category"]] = counts[row["category"]] + np.array(row["counts"])
    # third parties, and models beyond the palette, are drawn in grey
    color = dict(zip(results.models, MODELS, strict=False)).get(rater, MUTED)

    def paint(axes) -> None:
        for ax, category in zip(np.atleast_1d(axes), categories, strict=True):
            low, high = measures["scale"]
            edges = np.linspace(low, high, len(counts[category]) + 1)
            ax.bar(edges[:-1], counts[category], np.diff(edges), align="edge", color=color)
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.spines["left"].set_visible(False)
            ax.set_title(category, loc="left", fontsize=8.5, color=INK, pad=2)
        ax.set_xlim(*measures["scale"])
        ax.set_xlabel("rating")

    height = 0.5 + 0.42 * len(categories)
    return plot(f"reliability scores {rater}", height, paint, rows=len(categories))
