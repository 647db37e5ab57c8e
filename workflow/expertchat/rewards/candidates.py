"""Candidate replies: their overall ratings, and their token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from expertchat import chat
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.dialogues.contexts import Context, context_messages
from expertchat.errors import UserError
from expertchat.ratings.artifact import OVERALL_COLUMNS, REPLY, overall, read_ratings
from expertchat.records import read_all


def rated_candidates(
    folders: Sequence[Path],
    ratings: Sequence[Path],
    speaker: str,
    weights: Mapping[str, float],
    min_valid_mass: float,
) -> pd.DataFrame:
    """The candidate replies of the model `speaker` with their overall ratings by its partners.

    One row per candidate, with the columns of a candidate's record, `overall` (in rating points) and
    `usable`. Raises UserError if the model has no candidate replies.
    """
    candidates = pd.DataFrame(c for c in read_all(folders, CANDIDATES) if c["model"] == speaker)
    if candidates.empty:
        raise UserError(
            f"{speaker} has no candidate replies: dialogues.candidate_turns names none of its turns; "
            "name an even and an odd turn"
        )
    scores = overall(read_ratings(ratings, min_valid_mass, OVERALL_COLUMNS, scope=REPLY), weights)
    scores = scores.rename(columns={"item_id": "candidate_id"})
    return candidates.merge(scores[["candidate_id", "overall", "usable"]], on="candidate_id")


def encode_candidates(
    tokenizer, folders: Sequence[Path], candidates: pd.DataFrame, texts: Mapping[str, str]
) -> dict[str, list[int]]:
    """Token ids by candidate id: the prompt that the speaker saw, its reply, and the end token."""
    dialogues = {d["dialogue_id"]: d for d in read_all(folders, DIALOGUES)}
    prompts: dict[str, list[int]] = {}
    encoded = {}
    for row in candidates.to_dict("records"):
        if row["context_id"] not in prompts:
            context = Context(dialogues[row["dialogue_id"]], row["turn"])
            prompts[row["context_id"]] = chat.encode(tokenizer, context_messages(context, texts))
        text = chat.reply_lead(tokenizer) + row["text"]
        reply = tokenizer.encode(text, add_special_tokens=False)
        encoded[row["candidate_id"]] = [*prompts[row["context_id"]], *reply, tokenizer.eos_token_id]
    return encoded
