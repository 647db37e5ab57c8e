"""A rater of two categories, and a dialogue with candidates that it can rate."""

from expertchat.ratings.asking import (
    Rater,
)
from expertchat.ratings.items import items_for
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import Category, Rubric, Wording

TEMPLATE = (
    "{% for t in turns %}{{ t.label }}:{{ t.text }} {% endfor %}|{{ rated }} {{ scope }} {{ category }}"
)
WIT = Category(
    name="wit",
    description="d",
    low="dull",
    high="bright",
    paraphrases=[Wording(name="humour", description="e")],
)
DEPTH = Category(
    name="depth", description="d", paraphrases=[Wording(name="profundity", description="e")]
)
RUBRIC = Rubric(low=1, high=10, categories=[WIT, DEPTH])


def rater_on(engine, rubric=RUBRIC, template=TEMPLATE, name="a", **settings) -> Rater:
    return Rater(name, engine, Ratings(**{"min_valid_mass": 0.0} | settings), rubric, template, 0)


DIALOGUE = {
    "dialogue_id": "d",
    "topic_id": "t",
    "topic": "bread",
    "split": "train",
    "speakers": ["b", "a"],
    "turns": [
        {"speaker": "b", "text": "one"},
        {"speaker": "a", "text": "two"},
        {"speaker": "b", "text": "three"},
    ],
}
CANDIDATES = [
    {"candidate_id": "d/t1/c0", "dialogue_id": "d", "turn": 1, "speaker": "a", "text": "x"},
    {"candidate_id": "d/t2/c0", "dialogue_id": "d", "turn": 2, "speaker": "b", "text": "y"},
]
ITEM = next(items_for("a", [DIALOGUE], []))
