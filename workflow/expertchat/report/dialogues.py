"""The dialogues before and after tuning, on the same held-out topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from expertchat.dialogues.artifact import FLAGS
from expertchat.ratings.artifact import DIALOGUE, overall
from expertchat.report.blocks import Comparison, Comparisons, Fold, ModelName, Section, Side, Table
from expertchat.report.results import Results, spread
from expertchat.report.turns import CUT_OFF, dialogue_blocks
from expertchat.report.wording import after_round, number, percent
from expertchat.splits import HELD_OUT

SHOWN, FOLDED = 4, 8  # dialogues

Dialogue = Mapping[str, Any]


def section(results: Results) -> Section:
    """Tables of turns and flags, then dialogues before and after tuning side by side."""
    rounds = [results.dialogues(number) for number in range(results.rounds + 1)]
    shown = [0, results.rounds] if results.rounds else [0]
    by_id = [
        {d["dialogue_id"]: d for d in rounds[n] if d["split"] == HELD_OUT or not results.rounds}
        for n in shown
    ]
    common = [key for key in by_id[0] if key in by_id[-1]]
    chosen = spread(common, SHOWN)
    others = [key for key in spread(common, SHOWN + FOLDED) if key not in chosen][:FOLDED]
    scores = [dialogue_scores(results, n) for n in shown]

    def side_by_side(key: str) -> Comparison:
        return comparison(results, [dialogues[key] for dialogues in by_id], scores)

    kind = "held-out dialogues" if results.rounds else "dialogues"
    note = (
        f"{len(chosen)} of {len(common):,} {kind}, taken at equal intervals from the list. Below each "
        "dialogue: the overall rating that each speaker received from its partner."
    )
    lead = "The models discuss every topic in the roles that their prompts give them. "
    if results.rounds:
        lead += (
            "Before: the base models. After: the same topic, discussed with the last round's adapters."
        )
    folded = [Comparisons([side_by_side(key) for key in others])]
    blocks = [
        turn_table(results, rounds),
        flag_table(results, rounds),
        Comparisons([side_by_side(key) for key in chosen], note),
        *([Fold(f"{len(others)} more {kind}", folded)] if others else []),
    ]
    return Section("dialogues", lead, blocks)


def dialogue_scores(results: Results, number: int) -> dict[tuple[str, str], float]:
    """Overall ratings after `number` rounds, by (dialogue id, rated speaker)."""
    rows = overall(results.ratings(number, scope=DIALOGUE), results.settings["weights"])
    return dict(zip(zip(rows["item_id"], rows["ratee"], strict=True), rows["overall"], strict=True))


def comparison(results: Results, dialogues: list[Dialogue], scores) -> Comparison:
    """One dialogue before and after tuning, or by itself."""
    titles = ("before", "after") if len(dialogues) > 1 else ("",)
    sides = []
    for title, dialogue, rated in zip(titles, dialogues, scores, strict=True):
        notes = [
            f"rating of {seat}: {number(rated.get((dialogue['dialogue_id'], seat)))}"
            for seat in sorted(dialogue["speakers"])
        ]
        sides.append(Side(title, dialogue_blocks(results, dialogue), notes))
    return Comparison(dialogues[0]["topic"], dialogues[0]["subject"], sides)


def turn_table(results: Results, rounds: Sequence[Sequence[Dialogue]]) -> Table:
    """Number, length, cut-off share and variety of turns, by round and model."""
    rows = []
    for name, when, dialogues, own in turns_by_model(results, rounds):
        cut = (own["finish_reason"] == CUT_OFF).mean()
        distinct = own["text"].nunique() / max(1, len(own))
        took_part = sum(name.name in d["models"].values() for d in dialogues)
        rows.append(
            [
                name,
                when,
                f"{took_part:,}",
                f"{len(own):,}",
                number(own["tokens"].mean(), 1),
                percent(cut, 1),
                percent(distinct, 1),
            ]
        )
    head = ["model", "when", "dialogues", "turns", "tokens per turn", "cut off", "distinct turns"]
    note = "Cut off: turns that reached the token limit before they ended."
    if results.rounds:
        note += (
            " After the last round only held-out topics are discussed, so the shares of distinct turns "
            "are over fewer turns."
        )
    return Table(head, rows, text_columns=2, note=note)


def flag_table(results: Results, rounds: Sequence[Sequence[Dialogue]]) -> Table:
    """Share of turns with each flag, by round and model."""
    rows = []
    for name, when, _, own in turns_by_model(results, rounds):
        flagged = [own["flags"].map(lambda flags, flag=flag: flag in flags) for flag in FLAGS]
        rows.append([name, when, *(percent(share.mean(), 1) for share in flagged)])
    head = ["model", "when", *(flag.replace("_", " ") for flag in FLAGS)]
    note = (
        "Share of turns with each flag; flags are set by rules on the text. Truncated: ends in "
        "mid-sentence. Persona break: speaks as an AI. Role flip: also writes the partner's lines. "
        "Repetition: repeats itself or an earlier turn. Refusal: declines the task. Asks for rating: "
        "asks the reader for a rating."
    )
    return Table(head, rows, text_columns=2, note=note)


def turns_by_model(
    results: Results, rounds: Sequence[Sequence[Dialogue]]
) -> Iterator[tuple[ModelName, str, Sequence[Dialogue], pd.DataFrame]]:
    """(model, "base" or "after round n", all dialogues, the model's turns), by round and model."""
    for round_number, dialogues in enumerate(rounds):
        turns = pd.DataFrame(
            [turn | {"model": d["models"][turn["speaker"]]} for d in dialogues for turn in d["turns"]]
        )
        for name in results.models:
            own = turns[turns["model"] == name]
            yield results.name(name), after_round(round_number), dialogues, own
