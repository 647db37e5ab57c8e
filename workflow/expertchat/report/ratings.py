"""The ratings that the models gave each other, by category, before and after tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import DIALOGUE, REPLY, overall
from expertchat.report.blocks import (
    Comparison,
    Comparisons,
    Figure,
    Figures,
    Fold,
    Section,
    Side,
    Table,
)
from expertchat.report.plots import INK, MODELS, MUTED, plot
from expertchat.report.results import Results, spread
from expertchat.report.summary import with_interval
from expertchat.report.turns import dialogue_blocks, turn_block
from expertchat.report.wording import after_round, counted, interval, number, percent
from expertchat.splits import HELD_OUT

CONTEXTS_SHOWN = 2  # contexts per model with their best and worst candidate replies


def section(results: Results) -> Section:
    """Histograms by category, means with intervals, and the best and worst candidate replies."""
    tuned = results.rounds > 0
    after = held_out(results, results.rounds)
    before = held_out(results, 0) if tuned else after.iloc[:0]
    (worst, best), settings = results.scale, results.stage_settings("ratings")
    lead = (
        f"Each model rates the other from {worst} to {best}, in a new context that contains only the "
        "text to be rated. A rating is the expected score under the rater's probabilities. Shown: "
        "ratings of whole dialogues on "
        + counted(after["topic_id"].nunique(), "held-out topic" if tuned else "topic")
        + (", by the base models and after the last round." if tuned else ".")
    )
    if settings["tuned_raters"] and results.rounds > 1:
        lead += (
            " From round 2 on, the raters use the previous round's adapters, so their use of the scale "
            "may have changed."
        )
    bins = np.linspace(worst, best, 19)
    figures = [
        Figure(
            histograms(results, model, before, after, bins),
            f"Ratings received by {name}",
            model=results.name(name),
        )
        for model, name in enumerate(results.models)
    ]
    legend = [("bar-muted", "before"), ("bar-models", "after")] if tuned else []
    table = category_table(results, before, after) if tuned else category_means(results, after)
    blocks = [Figures(figures, legend), table, usable_table(results)]
    samples = candidate_samples(results)
    if samples:
        note = (
            "The candidate replies with the highest and the lowest rating, for held-out contexts of the "
            "base models' dialogues taken at equal intervals from the list."
        )
        blocks.append(Fold("Best and worst rated candidate replies", [Comparisons(samples, note)]))
    return Section("ratings", lead, blocks)


def held_out(results: Results, number: int) -> pd.DataFrame:
    """Usable ratings of whole dialogues on held-out topics, or on all topics if nothing is tuned.

    Columns: item_id, topic_id, ratee, model, category, score (mean over raters, orders and repeats).
    """
    split = HELD_OUT if results.rounds else None
    table = results.ratings(number, scope=DIALOGUE, split=split)
    keys = ["item_id", "topic_id", "ratee", "model", "category"]
    usable = table[table["usable"]].groupby(keys, sort=False, observed=True)
    return usable["score"].mean().reset_index().astype(dict.fromkeys(keys, str))


def histograms(
    results: Results, model: int, before: pd.DataFrame, after: pd.DataFrame, bins: np.ndarray
):
    """One row per category: the ratings of a model, before in grey and after in the model's colour."""
    name, categories = results.models[model], list(results.settings["weights"])

    def paint(axes) -> None:
        for ax, category in zip(np.atleast_1d(axes), categories, strict=True):
            drawn = [
                (table[(table["model"] == name) & (table["category"] == category)]["score"], *style)
                for table, *style in ((before, MUTED, 0.45), (after, MODELS[model], 0.6))
            ]
            paint_histogram(ax, category, bins, drawn)
        ax.set_xlabel("rating (vertical lines: means)")

    return plot(f"ratings {model}", 0.5 + 0.52 * len(categories), paint, rows=len(categories))


def paint_histogram(
    ax, category: str, bins: np.ndarray, drawn: Sequence[tuple[pd.Series, str, float]]
) -> None:
    """Histograms of (scores, colour, opacity) over each other, with their means as vertical lines."""
    for scores, color, alpha in drawn:
        ax.hist(scores, bins, color=color, alpha=alpha)
        if len(scores):
            ax.axvline(scores.mean(), color=color, linewidth=1.6)
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.set_title(category, loc="left", fontsize=8.5, color=INK, pad=2)
    ax.set_xlim(bins[0], bins[-1])


def category_table(results: Results, before: pd.DataFrame, after: pd.DataFrame) -> Table:
    """Mean rating by category and model before and after, and the paired change with its interval."""
    rows = []
    keys = ["item_id", "topic_id", "category", "ratee", "model"]
    both = before.merge(after, on=keys, suffixes=("_before", "_after"))
    for name in results.models:
        for category in results.settings["weights"]:
            own = both[(both["model"] == name) & (both["category"] == category)]
            change = with_interval(
                "change", (own["score_after"] - own["score_before"]).to_numpy(), own["topic_id"]
            )
            rows.append(
                [
                    results.name(name),
                    category,
                    number(own["score_before"].mean()),
                    number(own["score_after"].mean()),
                    number(change["change"], sign=True),
                    interval(change["change_interval"], sign=True),
                    len(own),
                ]
            )
    note = (
        "Held-out dialogues, paired by topic and seed. Interval: of the change, 95 %, bootstrap that "
        "resamples topics."
    )
    head = ["model", "category", "before", "after", "change", "interval", "dialogues"]
    return Table(head, rows, text_columns=2, note=note)


def category_means(results: Results, ratings: pd.DataFrame) -> Table:
    """Mean rating by category and model, with an interval."""
    rows = []
    for name in results.models:
        for category in results.settings["weights"]:
            own = ratings[(ratings["model"] == name) & (ratings["category"] == category)]
            mean = with_interval("mean", own["score"].to_numpy(), own["topic_id"])
            bounds = interval(mean["mean_interval"])
            rows.append([results.name(name), category, number(mean["mean"]), bounds, len(own)])
    note = "Whole dialogues. Interval: 95 %, bootstrap that resamples topics."
    return Table(["model", "category", "mean", "interval", "ratings"], rows, text_columns=2, note=note)


def usable_table(results: Results) -> Table:
    """The raters' uncertainty, and the share of unusable ratings."""
    rows = []
    for round_number in range(results.rounds + 1):
        for rater, table in results.ratings(round_number).groupby("rater", sort=False, observed=True):
            rows.append(
                [
                    results.name(rater),
                    *([after_round(round_number)] if results.rounds else []),
                    f"{len(table):,}",
                    percent(1 - table["usable"].mean(), 1),
                    percent(table["valid_mass"].mean(), 1),
                    number(table["entropy"].mean()),
                ]
            )
    when = ["when"] if results.rounds else []
    head = ["rater", *when, "ratings", "unusable", "mass on scores", "entropy, nats"]
    note = (
        "Mass on scores: the mean total probability that the rater gave to valid scores. Unusable: "
        "ratings whose mass is too low. Entropy: of the distribution over valid scores."
    )
    return Table(head, rows, text_columns=1 + len(when), note=note)


def candidate_samples(results: Results) -> list[Comparison]:
    """For some contexts of each model, the replies with the highest and the lowest rating."""
    candidates = pd.DataFrame(results.candidates(0))
    scores = overall(results.ratings(0, scope=REPLY), results.settings["weights"])
    scores = scores[scores["usable"]]
    if candidates.empty or scores.empty:
        return []
    scores = scores.rename(columns={"item_id": "candidate_id"})[["candidate_id", "overall"]]
    rated = candidates[candidates["split"] == HELD_OUT].merge(scores, on="candidate_id")
    by_id = {d["dialogue_id"]: d for d in results.dialogues(0)}
    comparisons = []
    for name in results.models:
        groups = list(rated[rated["model"] == name].groupby("context_id", sort=False))
        for _, group in spread(groups, CONTEXTS_SHOWN):
            group = group.sort_values("overall", ascending=False)
            comparisons.append(best_and_worst(results, by_id[group["dialogue_id"].iloc[0]], group))
    return comparisons


def best_and_worst(results: Results, dialogue: dict, group: pd.DataFrame) -> Comparison:
    """The first and the last of a context's candidates, below the turns of the context."""
    sides = []
    for title, row in (("highest rating", group.iloc[0]), ("lowest rating", group.iloc[-1])):
        turn = turn_block(results, row["model"], row, [f"rating {number(row['overall'])}"])
        sides.append(Side(f"{title} of {len(group)}", [turn]))
    before = dialogue_blocks(results, dialogue, group["turn"].iloc[0])
    return Comparison(dialogue["topic"], dialogue["subject"], sides, before)
