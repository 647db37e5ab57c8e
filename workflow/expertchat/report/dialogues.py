"""The dialogues: what was said before tuning and after, on the same held-out topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from expertchat.dialogues.artifact import FLAGS
from expertchat.ratings.artifact import DIALOGUE, overall
from expertchat.report.blocks import Comparison, Comparisons, Fold, Section, Side, Table, Turn
from expertchat.report.results import Results, spread
from expertchat.report.wording import number, percent
from expertchat.splits import HELD_OUT

SHOWN, FOLDED = 4, 8
CUT = "length"  # the finish reason of a turn that reached the token limit

Dialogue = Mapping[str, Any]


def section(results: Results) -> Section:
    """Tables of turns and of their flags, and dialogues, before and after side by side."""
    rounds = [results.dialogues(number) for number in range(results.rounds + 1)]
    shown = [0, results.rounds] if results.rounds else [0]
    said = [
        {d["dialogue_id"]: d for d in rounds[n] if d["split"] == HELD_OUT or not results.rounds}
        for n in shown
    ]
    common = [key for key in said[0] if key in said[-1]]
    chosen = spread(common, SHOWN)
    others = [key for key in spread(common, SHOWN + FOLDED) if key not in chosen][:FOLDED]
    scores = [dialogue_scores(results, n) for n in shown]

    def side_by_side(key: str) -> Comparison:
        return comparison(results, [dialogues[key] for dialogues in said], scores)

    kind = "held-out dialogues" if results.rounds else "dialogues"
    note = (
        f"{len(chosen)} of {len(common):,} {kind}, at even distances in the list and not picked. "
        "Under each: the speakers' overall ratings by each other."
    )
    lead = "Models speak on every topic, each told its role by the prompts. "
    if results.rounds:
        lead += "Before: the base models. After: with the last round's adapters, on the same topic."
    blocks = [turn_table(results, rounds), flag_table(results, rounds)]
    blocks += [Comparisons([side_by_side(key) for key in chosen], note)]
    if others:
        folded = [Comparisons([side_by_side(key) for key in others])]
        blocks.append(Fold(f"{len(others)} more {kind}", folded))
    return Section("dialogues", lead, blocks)


def dialogue_scores(results: Results, number: int) -> dict[tuple[str, str], float]:
    """Overall rating by (dialogue, rated seat) after `number` rounds."""
    rows = overall(results.ratings(number, scope=DIALOGUE), results.settings["weights"])
    return dict(zip(zip(rows["item_id"], rows["ratee"], strict=True), rows["overall"], strict=True))


def comparison(results: Results, dialogues: list[Dialogue], scores) -> Comparison:
    """One dialogue before and after, or alone."""
    titles = ("before", "after") if len(dialogues) > 1 else ("",)
    sides = []
    for title, dialogue, rated in zip(titles, dialogues, scores, strict=True):
        turns = [
            Turn(results.name(dialogue["models"][t["speaker"]]), t["text"], t["finish_reason"] == CUT)
            for t in dialogue["turns"]
        ]
        notes = [
            f"{seat} rated {number(rated.get((dialogue['dialogue_id'], seat)))}"
            for seat in sorted(dialogue["speakers"])
        ]
        sides.append(Side(title, turns, notes))
    return Comparison(dialogues[0]["topic"], dialogues[0]["subject"], sides)


def turn_table(results: Results, rounds: list[list[Dialogue]]) -> Table:
    """Turns, their length and how many were cut off, by stage of the loop and model."""
    rows = []
    for name, played, dialogues, own in spoken(results, rounds):
        cut = (own["finish_reason"] == CUT).mean()
        distinct = own["text"].nunique() / max(1, len(own))
        took_part = sum(name.name in d["models"].values() for d in dialogues)
        rows.append(
            [
                name,
                played,
                f"{took_part:,}",
                f"{len(own):,}",
                number(own["tokens"].mean(), 1),
                percent(cut, 1),
                percent(distinct, 1),
            ]
        )
    head = ["model", "", "dialogues", "turns", "tokens a turn", "cut off", "distinct turns"]
    note = "Cut off: turns that reached their token limit in mid-sentence."
    if results.rounds:
        note += (
            " After the last round only held-out topics are talked about, so that shares of distinct "
            "turns are of fewer turns."
        )
    return Table(head, rows, text_columns=2, note=note)


def flag_table(results: Results, rounds: list[list[Dialogue]]) -> Table:
    """Share of turns that carry each flag, by stage of the loop and model."""
    rows = []
    for name, played, _, own in spoken(results, rounds):
        carried = [own["flags"].map(lambda found, flag=flag: flag in found) for flag in FLAGS]
        rows.append([name, played, *(percent(share.mean(), 1) for share in carried)])
    head = ["model", "", *(flag.replace("_", " ") for flag in FLAGS)]
    note = (
        "Share of turns with a flag, told from their texts alone. Persona break: speaks as an AI; role "
        "flip: writes the other's lines too; asks for rating: asks its reader for a good one."
    )
    return Table(head, rows, text_columns=2, note=note)


def spoken(results: Results, rounds: list[list[Dialogue]]):
    """(model, stage of the loop, its dialogues, the model's turns) for each stage and model."""
    for played, dialogues in enumerate(rounds):
        said = [turn | {"model": d["models"][turn["speaker"]]} for d in dialogues for turn in d["turns"]]
        turns = pd.DataFrame(said)
        for name in results.models:
            stage = "base" if played == 0 else f"after round {played}"
            yield results.name(name), stage, dialogues, turns[turns["model"] == name]
