"""Judgements: whose replies to held-out conversations are better."""

from __future__ import annotations

import pandas as pd

from expertchat.judgements.artifact import BASE, JUDGEMENTS, SFT, TUNED
from expertchat.preferences.artifact import read_pairs
from expertchat.report.blocks import (
    Comparison,
    Comparisons,
    Figure,
    Figures,
    ModelName,
    Section,
    Side,
    Table,
    Turn,
)
from expertchat.report.plots import interval_row, percent_axis, plot, reference_line, rows_axis
from expertchat.report.results import Results, spread
from expertchat.report.wording import counted, interval, number, percent
from expertchat.settings.preferences import REWARD_MODEL
from expertchat.splits import HELD_OUT

SHOWN = 4  # contexts whose replies are shown
TITLES = {BASE: "base", SFT: "after SFT", TUNED: "after PPO"}
JUDGES = {REWARD_MODEL: "reward model on other pairs"}


def section(results: Results) -> Section:
    """Win rates by judge, how each judge judges, and replies side by side."""
    rows = results.summary["judgements"]
    lead = (
        "The models reply to held-out conversations, and a judge that trained no policy says which "
        f"reply is better ({counted(rows[0]['pairs'], 'pair')} of replies for each comparison). To the "
        "right of the dashed line the judge prefers what comes later in training. Pairs that a judge "
        "cannot decide count half."
    )
    title = "Win rate, 95 % interval"
    return Section(
        "judgements",
        lead,
        [
            Figures([Figure(win_plot(results, rows), title, "Intervals resample conversations.")]),
            win_table(results, rows),
            *judge_tables(rows),
            Comparisons(samples(results), "Replies to conversations taken at equal intervals."),
        ],
    )


def comparison_label(row: dict, rows: list[dict]) -> str:
    """Who is compared with whom; the model and the judge are named if there are several."""
    models, judges = ({other[key] for other in rows} for key in ("model", "judge"))
    model = f"{row['model']}, " if len(models) > 1 else ""
    judge = f" ({row['judge'].replace('_', ' ')})" if len(judges) > 1 else ""
    return f"{model}{TITLES[row['first']]} over {TITLES[row['second']]}{judge}"


def win_plot(results: Results, rows: list[dict]):
    """One row per comparison and judge."""

    def paint(ax) -> None:
        for y, row in enumerate(rows):
            model = results.models.index(row["model"])
            rate, bounds = row["win_rate"], row["win_rate_interval"]
            interval_row(ax, y, rate, bounds, model, percent(rate))
        reference_line(ax, 0.5, "even")
        rows_axis(ax, [comparison_label(row, rows) for row in rows])
        ax.set_xlim(-0.02, 1.02)
        percent_axis(ax.xaxis)

    return plot("judgements wins", 0.75 + 0.3 * len(rows), paint)


def win_table(results: Results, rows: list[dict]) -> Table:
    """The win rates as numbers, and what length has to do with them."""
    table = [
        [
            results.name(row["model"]),
            JUDGES.get(row["judge"], row["judge"]),
            TITLES[row["first"]],
            TITLES[row["second"]],
            f"{row['pairs']:,}",
            percent(row["win_rate"], 1),
            interval(row["win_rate_interval"], 1, 100),
            percent(row["ties"], 1),
            number(row["first_tokens"], 1),
            number(row["second_tokens"], 1),
            percent(row["longer_wins"], 1),
        ]
        for row in rows
    ]
    head = ["model", "judge", "first", "second", "pairs", "first wins", "95 % interval", "undecided"]
    head += ["tokens, first", "tokens, second", "longer wins"]
    note = (
        "Longer wins: share of the pairs of different lengths in which the judge prefers the longer "
        "reply. Far from 50 %, it may be length that decides."
    )
    return Table(head, table, text_columns=4, note=note)


def judge_tables(rows: list[dict]) -> list[Table]:
    """How good the judges are: a reward model's accuracy, and a model's consistency."""
    by_judge = {(row["model"], row["judge"]): row for row in rows}.values()
    scored = [row for row in by_judge if "held_out" in row]
    asked = [row for row in by_judge if "consistent" in row]
    tables = []
    if scored:
        table = [
            [
                row["model"],
                f"{row['held_out']['pairs']:,}",
                percent(row["held_out"]["accuracy"], 1),
                interval(row["held_out"]["accuracy_interval"], 1, 100),
                percent(row["held_out"]["length_accuracy"], 1),
            ]
            for row in scored
        ]
        head = ["judge's reward model for", "held-out pairs", "accuracy", "95 % interval"]
        note = (
            "How often the judge's reward model agrees with people on held-out pairs. It has the same "
            "base model as the policy, so both may like the same mistakes."
        )
        tables.append(Table([*head, "length baseline"], table, note=note))
    if asked:
        table = [
            [
                row["judge"],
                percent(row["mass"], 1),
                percent(row["consistent"], 1),
                percent(row["first_place"], 1),
            ]
            for row in asked
        ]
        head = ["judge", "probability of A and B", "same answer in both orders", "first place"]
        note = (
            "First place: the mean probability of the reply that stands first. Both orders are asked "
            "and averaged, so a liking for one place cancels out."
        )
        tables.append(Table(head, table, note=note))
    return tables


def samples(results: Results) -> list[Comparison]:
    """The first reply of each contestant to a few conversations, of the first model that was judged."""
    artifact = results.run.find("judgements")[0]
    table = pd.read_parquet(artifact.folder / JUDGEMENTS)
    table = table[table["number"] == 0]
    pairs = read_pairs(results.run.folder("preferences"), HELD_OUT)
    messages = {pair["context_id"]: pair["messages"] for pair in pairs}
    speakers = {"assistant": ModelName("assistant", 2), "user": ModelName("user", 1)}
    shown = []
    for context in spread(list(dict.fromkeys(table["context_id"])), SHOWN):
        own = table[table["context_id"] == context]
        texts = dict(zip(own["second"], own["second_text"], strict=True))
        texts |= dict(zip(own["first"], own["first_text"], strict=True))
        model = results.name(artifact.model)
        sides = [Side(TITLES[n], [Turn(model, texts[n])]) for n in TITLES if n in texts]
        said = [m for m in messages[context] if m["role"] != "system"]
        before = [Turn(speakers[m["role"]], m["content"]) for m in said]
        shown.append(Comparison("conversation", context, sides, before))
    return shown
