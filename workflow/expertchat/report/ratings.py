"""The ratings: how each model rated the other, by category, before and after."""

from __future__ import annotations

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
    Turn,
)
from expertchat.report.plots import INK, MODELS, MUTED, plot
from expertchat.report.results import Results, spread
from expertchat.report.summary import with_interval
from expertchat.report.wording import counted, interval, number, percent
from expertchat.splits import HELD_OUT

CONTEXTS_SHOWN = 2  # a model, of its best and worst candidate replies


def section(results: Results) -> Section:
    """Histograms by category, means with intervals, and the best and worst candidate replies."""
    tuned = results.rounds > 0
    after = held_out(results, results.rounds)
    before = held_out(results, 0) if tuned else after.iloc[:0]
    (worst, best), settings = results.scale, results.stage_settings("ratings")
    lead = (
        f"Each model rates the other from {worst} to {best} in a clean context. A "
        "rating is the expected score under the rater's probabilities. Shown: whole dialogues on "
        + counted(after["topic_id"].nunique(), "held-out topic" if tuned else "topic")
        + (", base models and last round." if tuned else ".")
    )
    if settings["tuned_raters"] and results.rounds > 1:
        lead += " From round 2 on the raters have the last round's adapters: their scale may have moved."
    bins = np.linspace(worst, best, 19)
    figures = [
        Figure(
            histograms(results, place, before, after, bins),
            f"Ratings of {name}",
            model=results.name(name),
        )
        for place, name in enumerate(results.models)
    ]
    legend = [("bar-muted", "before"), ("bar-models", "after")] if tuned else []
    table = category_table(results, before, after) if tuned else category_means(results, after)
    blocks = [Figures(figures, legend), table, usable_table(results)]
    samples = candidate_samples(results)
    if samples:
        note = (
            "The highest and the lowest rated of the candidate replies to one held-out context of the "
            "base models; the contexts are taken at even distances."
        )
        blocks.append(Fold("Best and worst rated candidate replies", [Comparisons(samples, note)]))
    return Section("ratings", lead, blocks)


def held_out(results: Results, number: int) -> pd.DataFrame:
    """Usable ratings of whole dialogues on held-out topics {item_id, topic_id, ratee, model, category,
    score}, means over raters, orders and repeats; on all topics where nothing is tuned."""
    splits = {"split": HELD_OUT} if results.rounds else {}
    table = results.ratings(number, scope=DIALOGUE, **splits)
    keys = ["item_id", "topic_id", "ratee", "model", "category"]
    usable = table[table["usable"]].groupby(keys, sort=False, observed=True)
    return usable["score"].mean().reset_index().astype(dict.fromkeys(keys, str))


def histograms(
    results: Results, place: int, before: pd.DataFrame, after: pd.DataFrame, bins: np.ndarray
):
    """A row a category: the ratings that a model got, before in grey and after in its colour."""
    name, categories = results.models[place], list(results.settings["weights"])

    def paint(axes) -> None:
        for ax, category in zip(np.atleast_1d(axes), categories, strict=True):
            for table, color, alpha in ((before, MUTED, 0.45), (after, MODELS[place], 0.6)):
                scores = table[(table["model"] == name) & (table["category"] == category)]["score"]
                ax.hist(scores, bins, color=color, alpha=alpha)
                if len(scores):
                    ax.axvline(scores.mean(), color=color, linewidth=1.6)
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.spines["left"].set_visible(False)
            ax.set_title(category, loc="left", fontsize=8.5, color=INK, pad=2)
        ax.set_xlim(bins[0], bins[-1])
        ax.set_xlabel("rating; lines are means")

    return plot(f"ratings {place}", 0.5 + 0.52 * len(categories), paint, rows=len(categories))


def category_table(results: Results, before: pd.DataFrame, after: pd.DataFrame) -> Table:
    """Mean rating by category and model, and its change on the same dialogues with an interval."""
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
    note = "Held-out dialogues, paired by topic and seed; intervals: 95 % bootstrap by topic."
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
    note = "Whole dialogues; intervals: 95 % bootstrap by topic."
    return Table(["model", "category", "mean", "interval", "ratings"], rows, text_columns=2, note=note)


def usable_table(results: Results) -> Table:
    """How sure the raters were, and how many ratings could not be used."""
    rows = []
    for played in range(results.rounds + 1):
        for rater, table in results.ratings(played).groupby("rater", sort=False, observed=True):
            rows.append(
                [
                    results.name(rater),
                    "base" if played == 0 else f"after round {played}",
                    f"{len(table):,}",
                    percent(1 - table["usable"].mean(), 1),
                    percent(table["valid_mass"].mean(), 1),
                    number(table["entropy"].mean()),
                ]
            )
    head = ["rater", "dialogues of", "ratings", "unusable", "mass on scores", "entropy, nats"]
    note = "Mass on scores: the mean probability that the rater gave to valid scores at all."
    return Table(head, rows, text_columns=2, note=note)


def candidate_samples(results: Results) -> list[Comparison]:
    """For each model, contexts with the reply rated best and the one rated worst."""
    candidates = pd.DataFrame(results.candidates(0))
    scores = overall(results.ratings(0, scope=REPLY), results.settings["weights"])
    scores = scores[scores["usable"]]
    if candidates.empty or scores.empty:
        return []
    scores = scores.rename(columns={"item_id": "candidate_id"})[["candidate_id", "overall"]]
    rated = candidates[candidates["split"] == HELD_OUT].merge(scores, on="candidate_id")
    said = {d["dialogue_id"]: d for d in results.dialogues(0)}
    found = []
    for name in results.models:
        groups = list(rated[rated["model"] == name].groupby("context_id", sort=False))
        for _, group in spread(groups, CONTEXTS_SHOWN):
            group = group.sort_values("overall", ascending=False)
            found.append(best_and_worst(results, said[group["dialogue_id"].iloc[0]], group))
    return found


def best_and_worst(results: Results, dialogue: dict, group: pd.DataFrame) -> Comparison:
    """The first and the last of a context's candidates, below what was said before."""
    sides = []
    for title, row in (("rated best", group.iloc[0]), ("rated worst", group.iloc[-1])):
        cut = row["finish_reason"] == "length"
        turn = Turn(results.name(row["model"]), row["text"], cut, [f"rating {number(row['overall'])}"])
        sides.append(Side(f"{title} of {len(group)}", [turn]))
    turns = dialogue["turns"][: group["turn"].iloc[0]]
    before = [
        Turn(results.name(dialogue["models"][t["speaker"]]), t["text"], t["finish_reason"] == "length")
        for t in turns
    ]
    return Comparison(dialogue["topic"], dialogue["subject"], sides, before)
