"""The sections on transcripts, the user's own conversations: the dialogues, and their ratings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from expertchat.dialogues.artifact import FLAGS
from expertchat.ratings.artifact import DIALOGUE, overall
from expertchat.report.blocks import (
    Comparison,
    Comparisons,
    Figure,
    Figures,
    Fold,
    ModelName,
    Section,
    Side,
    Table,
    Turn,
)
from expertchat.report.plots import MODELS, plot
from expertchat.report.ratings import paint_histogram, usable_table
from expertchat.report.results import Results, spread
from expertchat.report.summary import with_interval
from expertchat.report.turns import CUT_OFF
from expertchat.report.wording import ABSENT, counted, interval, number, percent

SHOWN, FOLDED = 4, 12  # dialogues to read
MAX_LISTED = 200  # rows of a table

FLAG_NOTE = (
    "Turns with each flag; flags are set by rules on the text, look for English phrases, and do not "
    "change ratings. Truncated: ends in mid-sentence. Persona break: speaks as an AI. Role flip: also "
    "writes the other speaker's lines. Repetition: repeats itself or an earlier turn. Refusal: declines "
    "what it is asked. Asks for rating: asks the reader for a rating."
)

Record = Mapping[str, Any]


def dialogue_section(results: Results) -> Section:
    """What was read, the flags of its turns, and dialogues to read with their ratings."""
    dialogues = results.dialogues(0)
    turns = turn_table(dialogues)
    shown = spread(dialogues, SHOWN)
    chosen = {d["dialogue_id"] for d in shown}
    others = [d for d in spread(dialogues, SHOWN + FOLDED) if d["dialogue_id"] not in chosen][:FOLDED]
    scores = overall_by_rater(results)
    path = results.stage_settings("dialogues")["transcripts"]
    lead = (
        f"{counted(len(dialogues), 'conversation')} with {counted(len(turns), 'turn')} from {path}. "
        f"A turn has {number(turns['words'].mean(), 1)} words on average."
    )
    differing = sum(bool(d["disagreements"]) for d in dialogues)
    if differing:
        lead += (
            f" In {counted(differing, 'dialogue')} the files of the two sides differ; the speaker's own "
            "file counts."
        )
    note = (
        f"{len(shown)} of {len(dialogues):,} dialogues, taken at equal intervals from the list. Below "
        "each: the overall rating of each speaker by each rater. A remark beside a name is a flag."
    )
    blocks: list[Any] = [
        flag_table(turns),
        Comparisons([to_read(dialogue, scores) for dialogue in shown], note),
    ]
    if others:
        more = Comparisons([to_read(dialogue, scores) for dialogue in others])
        blocks.append(Fold(f"{counted(len(others), 'more dialogue')} to read", [more]))
    return Section("dialogues", lead, blocks)


def turn_table(dialogues: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per turn: model (the speaker's, which is mostly its name), words and flags."""
    rows = [
        (d["models"][turn["speaker"]], len(turn["text"].split()), turn["flags"])
        for d in dialogues
        for turn in d["turns"]
    ]
    return pd.DataFrame(rows, columns=["model", "words", "flags"])


def flag_table(turns: pd.DataFrame) -> Table:
    """Number and share of turns with each flag."""
    rows = []
    for flag in FLAGS:
        count = sum(flag in flags for flags in turns["flags"])
        rows.append([flag.replace("_", " "), f"{count:,}", percent(count / len(turns), 1)])
    return Table(["flag", "turns", "share"], rows, note=FLAG_NOTE)


def to_read(dialogue: Record, scores: Mapping[tuple[str, str], list[str]]) -> Comparison:
    """A dialogue with its flags and the ratings that its speakers received."""
    color = {speaker: i for i, speaker in enumerate(dialogue["speakers"])}
    turns = [
        Turn(
            ModelName(turn["speaker"], color[turn["speaker"]]),
            turn["text"],
            turn["finish_reason"] == CUT_OFF,
            [flag.replace("_", " ") for flag in turn["flags"]],
        )
        for turn in dialogue["turns"]
    ]
    notes = [
        f"{speaker}: {', '.join(scores.get((dialogue['dialogue_id'], speaker), [ABSENT]))}"
        for speaker in dialogue["speakers"]
    ]
    title = dialogue["topic"] or dialogue["dialogue_id"]
    return Comparison(title, dialogue["subject"], [Side("", turns, notes)])


def overall_by_rater(results: Results) -> dict[tuple[str, str], list[str]]:
    """Overall ratings in words, one per rater, by (dialogue id, rated speaker)."""
    found: dict[tuple[str, str], list[str]] = {}
    for rater, table in overall_ratings(results):
        columns = (table[name] for name in ("item_id", "ratee", "overall", "usable"))
        for item, ratee, value, usable in zip(*columns, strict=True):
            words = number(value) if usable else "unusable"
            found.setdefault((item, ratee), []).append(f"{words} by {rater}")
    return found


def overall_ratings(results: Results) -> list[tuple[str, pd.DataFrame]]:
    """(rater, its overall ratings: one row per dialogue and speaker) for each rater."""
    ratings = results.ratings(0, scope=DIALOGUE)
    weights = results.settings["weights"]
    return [(name, overall(ratings[ratings["rater"] == name], weights)) for name in results.models]


def rating_section(results: Results) -> Section:
    """Means by rater and category, histograms, and the ratings of each dialogue."""
    worst, best = results.scale
    ratings = results.ratings(0, scope=DIALOGUE)
    usable = ratings[ratings["usable"]]
    lead = (
        f"Each model rates each speaker over the whole conversation, from {worst} to {best}, in a new "
        "context that contains only the conversation. A rating is the expected score under the rater's "
        "probabilities."
    )
    bins = np.linspace(worst, best, 19)
    figures = [
        Figure(histograms(results, i, usable, bins), f"Ratings by {name}", model=results.name(name))
        for i, name in enumerate(results.models)
    ]
    tables = [category_table(results, usable), usable_table(results)]
    by_speaker = speaker_table(results)
    if by_speaker.rows:
        tables.insert(1, by_speaker)
    return Section("ratings", lead, [Figures(figures), *tables, dialogue_table(results)])


def histograms(results: Results, model: int, usable: pd.DataFrame, bins: np.ndarray):
    """One row per category: the ratings by one rater."""
    name, categories = results.models[model], list(results.settings["weights"])

    def paint(axes) -> None:
        for ax, category in zip(np.atleast_1d(axes), categories, strict=True):
            own = usable[(usable["rater"] == name) & (usable["category"] == category)]
            paint_histogram(ax, category, bins, [(own["score"], MODELS[model], 0.6)])
        ax.set_xlabel("rating (vertical lines: means)")

    return plot(f"ratings by {model}", 0.5 + 0.52 * len(categories), paint, rows=len(categories))


def category_table(results: Results, usable: pd.DataFrame) -> Table:
    """Mean rating by rater and category, with an interval."""
    rows = []
    for name in results.models:
        for category in results.settings["weights"]:
            own = usable[(usable["rater"] == name) & (usable["category"] == category)]
            mean = with_interval("mean", own["score"].to_numpy(), own["topic_id"].astype(str))
            bounds = interval(mean["mean_interval"])
            rows.append([results.name(name), category, number(mean["mean"]), bounds, len(own)])
    note = "Interval: 95 %, bootstrap that resamples topics; without topic ids, each dialogue is one."
    return Table(["rater", "category", "mean", "interval", "ratings"], rows, text_columns=2, note=note)


def speaker_table(results: Results) -> Table:
    """Mean overall rating of each speaker with several dialogues, by rater; the most frequent first."""
    rows = []
    for rater, table in overall_ratings(results):
        scored = table[table["usable"]]
        counts = scored["model"].value_counts()
        for speaker in counts[counts > 1].index[:MAX_LISTED]:
            own = scored[scored["model"] == speaker]
            mean = with_interval("mean", own["overall"].to_numpy(), own["topic_id"].astype(str))
            bounds = interval(mean["mean_interval"])
            rows.append([results.name(rater), speaker, number(mean["mean"]), bounds, len(own)])
    head = ["rater", "speaker", "overall rating", "interval", "dialogues"]
    note = "Speakers with usable overall ratings in more than one dialogue."
    return Table(head, rows, text_columns=2, note=note)


def dialogue_table(results: Results) -> Fold:
    """The overall rating of each speaker of each dialogue by each rater."""
    scores = overall_by_rater(results)
    seats = [(d, speaker) for d in results.dialogues(0) for speaker in d["speakers"]]
    shown = spread(seats, MAX_LISTED)
    rows = [
        [
            dialogue["dialogue_id"],
            dialogue["topic"] or ABSENT,
            speaker,
            ", ".join(scores.get((dialogue["dialogue_id"], speaker), [ABSENT])),
        ]
        for dialogue, speaker in shown
    ]
    title = "Overall ratings of all dialogues"
    if len(shown) < len(seats):
        title = f"Overall ratings: {len(shown)} of {len(seats):,}, at equal intervals"
    return Fold(title, [Table(["dialogue", "topic", "speaker", "overall rating"], rows, text_columns=4)])
