"""Stage replies: a model, base or tuned, replies to held-out contexts.

The contexts are the same for every model that is compared, those of the base models' dialogues or of
held-out preferences, so that differences between replies are due to the model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertchat.checkpoints import Checkpoints
from expertchat.console import progress_bar, rate
from expertchat.contexts import OpenContext
from expertchat.dialogues.contexts import draw_replies
from expertchat.engine.interface import Engine
from expertchat.records import write_records
from expertchat.replies.artifact import REPLIES
from expertchat.seeds import seed_of
from expertchat.settings.decoding import Decoding


def write_replies(
    engine: Engine,
    contexts: Sequence[OpenContext],
    per_context: int,
    decoding: Decoding,
    seed: int,
    checkpoints: Path,
    out: Path,
) -> None:
    """Samples `per_context` replies to each context and writes them to replies.jsonl in `out`.

    Resumes after the last saved reply.

    One line per reply: {context_id, topic_id, speaker, number, text, tokens, finish_reason}; `number`
    counts the replies to a context from 0.
    """
    numbered = [(context, number) for context in contexts for number in range(per_context)]
    seeds = [seed_of(seed, "held-out reply", context.id, number) for context, number in numbered]
    with progress_bar(len(numbered), "replies", "replies") as progress:

        def report(replies: int, tokens: int, seconds: float) -> None:
            progress.set_postfix_str(rate(tokens, seconds, "tokens"))
            progress.update(replies)

        saved = Checkpoints(checkpoints / "replies")
        asked = [context for context, _ in numbered]
        replies = draw_replies(engine, asked, decoding, seeds, report, saved)
    write_records(out / REPLIES, map(_record, numbered, replies))


def _record(numbered: tuple[OpenContext, int], reply: dict[str, Any]) -> dict[str, Any]:
    context, number = numbered
    return {
        "context_id": context.id,
        "topic_id": context.topic_id,
        "speaker": context.speaker,
        "number": number,
        **reply,
    }
