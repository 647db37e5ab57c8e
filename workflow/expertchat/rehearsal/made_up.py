"""Made-up sentences, and records and questions of them in the formats of real data sets.

They have the form of the real ones and no content: a rehearsal shows that a format is read, split and
trained on. The same seed gives the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.records import write_records
from expertchat.splits import SPLITS

WHO = ("Bakers", "Farmers", "Gardeners", "Nurses", "Pilots", "Sailors", "Smiths", "Teachers")
HOW = ("must", "rarely", "should", "often", "never")
DO = ("carry", "check", "clean", "measure", "mend", "sort", "store", "weigh")
WHICH = ("dry", "heavy", "new", "old", "rare", "small", "wet")
WHAT = ("bottles", "engines", "flour", "lamps", "maps", "planks", "ropes", "seeds")
WHEN = ("after rain", "at home", "before dawn", "by hand", "in haste", "in winter", "without help")

RECORDS = 64  # of a made-up file
PER_SUBJECT = {"dev": 5, "val": 6, "test": 6}  # questions

Record = dict[str, Any]
Maker = Callable[[random.Random], Record]


def sentence(draw: random.Random) -> str:
    """A sentence of six or seven words, such as "Bakers must weigh old flour before dawn."."""
    return f"{_statement(draw)} {draw.choice(WHEN)}."


def _statement(draw: random.Random) -> str:
    return " ".join(draw.choice(words) for words in (WHO, HOW, DO, WHICH, WHAT))


def _exchange(draw: random.Random) -> tuple[str, str]:
    """A request and an answer to it."""
    return f"Is this right? {sentence(draw)}", sentence(draw)


def _hc3(draw: random.Random) -> Record:
    question, answer = _exchange(draw)
    return {"question": question, "human_answers": [answer], "chatgpt_answers": [sentence(draw)]}


def _messages(draw: random.Random) -> Record:
    question, answer = _exchange(draw)
    return {"messages": [_said("user", question), _said("assistant", answer)]}


def _said(role: str, text: str) -> Record:
    return {"role": role, "content": text}


def _keys(*names: str) -> Maker:
    """A maker of records {instruction, context, answer} under these names; no context with two names."""

    def make(draw: random.Random) -> Record:
        question, answer = _exchange(draw)
        context = {names[1]: draw.choice(("", sentence(draw)))} if len(names) > 2 else {}
        return {names[0]: question, **context, names[-1]: answer}

    return make


def _hh_rlhf(draw: random.Random) -> Record:
    question, answer = _exchange(draw)
    before = f"\n\nHuman: {question}\n\nAssistant: {answer}\n\nHuman: Why?\n\nAssistant: "
    return {"chosen": before + sentence(draw), "rejected": before + sentence(draw).upper()}


def _preferred_messages(draw: random.Random) -> Record:
    prompt = [_said("user", _exchange(draw)[0])]
    chosen, rejected = sentence(draw), sentence(draw).upper()
    replies = {"chosen": chosen, "rejected": rejected}
    return {key: [*prompt, _said("assistant", text)] for key, text in replies.items()}


INSTRUCTIONS: Mapping[str, Maker] = {
    "alpaca": _keys("instruction", "input", "output"),
    "dolly": _keys("instruction", "context", "response"),
    "hc3": _hc3,
    "evol-instruct": _keys("instruction", "output"),
    "messages": _messages,
}
PREFERENCES: Mapping[str, Maker] = {"hh-rlhf": _hh_rlhf, "messages": _preferred_messages}


def write_made_up(make: Maker, seed: int, path: Path) -> None:
    """Writes a .jsonl file of `RECORDS` records."""
    draw = random.Random(f"records {seed}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, (make(draw) for _ in range(RECORDS)))


def questions(subjects: Sequence[str]) -> dict[str, list[Record]]:
    """{split: rows} with rows {question, subject, choices, answer: 0 to 3}, as of the hub's MMLU."""
    draw = random.Random("questions")
    return {
        split: [_question(draw, subject) for subject in subjects for _ in range(PER_SUBJECT[split])]
        for split in SPLITS
    }


def _question(draw: random.Random, subject: str) -> Record:
    question = f"{_statement(draw)}, but when?"
    return {
        "question": question,
        "subject": subject,
        "choices": draw.sample(WHEN, 4),
        "answer": draw.randrange(4),
    }
