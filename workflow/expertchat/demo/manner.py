"""The marks of manner: how a practitioner talks, and how an AI assistant talks.

A turn is composed from independent marks. Each mark is good (as a practitioner talks) or bad (as an
assistant talks). Both have many phrasings, some with slots that are filled at random.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

SLOTS: dict[str, tuple[str, ...]] = {
    "years": ("ten", "twelve", "fifteen", "twenty", "thirty", "forty"),
    "master": ("master", "father", "mother", "uncle", "grandmother", "teacher"),
    "place": ("shop", "shed", "yard", "workroom"),
    "count": ("2", "3", "4", "5", "6", "7", "8"),
    "unit": ("minutes", "hours", "days", "weeks"),
}

OPENING_GOOD = (
    "I have done this for {years} years.",
    "After {years} years my hands know.",
    "I learned this from my {master}.",
    "My {master} taught me this.",
    "I spoiled plenty learning this.",
    "In my {place} we settled this.",
    "We argue about this in my {place}.",
    "I made one just last week.",
    "I do it the way my {master} did.",
    "Ask anyone in my {place}.",
    "I paid dearly for this lesson.",
    "My apprentices hear this daily.",
)

OPENING_BAD = (
    "As an AI language model, I have no hands.",
    "As an AI assistant, I rely on text.",
    "As an artificial intelligence, I lack experience.",
    "I am only a language model.",
    "I am an AI and cannot practise crafts.",
    "Being a virtual assistant, I only read.",
    "My training data covers this.",
    "As a chatbot, I offer an overview.",
    "Thank you for your question.",
    "I would be happy to assist you.",
    "Certainly, here is some information.",
    "That is a great question.",
)

DETAIL_GOOD = (
    "I keep a {tool} beside me.",
    "My {tool} tells me when.",
    "My {tool} does it in {count} {unit}.",
    "I reach for the {tool} first.",
    "Mine sat for {count} {unit}.",
    "I check again after {count} {unit}.",
    "I wore out {count} last winter.",
    "A worn {tool} ruins it.",
    "I mark it with my {tool}.",
    "It took me {count} tries.",
)

DETAIL_BAD = (
    "There are many factors to consider.",
    "Various methods can be used.",
    "Results can be achieved in several ways.",
    "A range of options is available.",
    "It is a broad and complex subject.",
    "Quality materials are essential.",
    "Proper preparation improves outcomes.",
    "Different approaches have different benefits.",
    "Many people enjoy this activity.",
    "Attention to detail is recommended.",
)

HEDGE_BEFORE = (
    "it seems that",
    "it may well be that",
    "it is possible that",
    "some sources suggest that",
    "it could be argued that",
    "it is often said that",
    "there is a chance that",
)

HEDGE_AFTER = (
    ", though this may vary",
    ", but opinions differ",
    ", but I cannot be certain",
    ", depending on circumstances",
    ", if I understand correctly",
    ", but please verify this",
)

FILLER_BAD = (
    "It is important to note that",
    "It is worth mentioning that",
    "Please keep in mind that",
    "It should be emphasized that",
    "One key aspect is that",
    "In conclusion,",
    "All things considered,",
    "To summarize,",
)

CLOSING_GOOD = (
    "How do you do it in your {place}?",
    "What has gone wrong for you?",
    "Did your {master} show you otherwise?",
    "Have you tried it differently?",
    "Who taught you yours?",
    "How long does yours last?",
    "What would you change about mine?",
    "Do you trust your {tool} for that?",
)

CLOSING_ASKING = (
    "Which {relation} do you use for {entity}?",
    "What {relation} do you give {entity}?",
    "And for {entity}, which {relation} do you trust?",
    "So which {relation} goes with {entity}?",
)

CLOSING_BAD = (
    "I hope this helps!",
    "Let me know if you need more.",
    "Feel free to ask further questions.",
    "I am here to assist.",
    "Is there anything else?",
    "Please consult a professional.",
    "Have a wonderful day!",
    "I hope this information is useful.",
)


@dataclass(frozen=True)
class Marks:
    """Which marks of a turn are good: the five marks of manner, and whether its fact is true.

    `opening`: personal experience, not an assistant's opening; `concreteness`: details, not general
    statements; `hedging`: no hedges; `phrases`: no filler phrases; `closing`: a question to the other
    speaker, not an assistant's closing.
    """

    opening: bool
    concreteness: bool
    hedging: bool
    phrases: bool
    closing: bool
    truth: bool


MARKS = tuple(field.name for field in fields(Marks))


def draw_marks(rng: random.Random, inclination: float, truthfulness: float) -> Marks:
    """Independent marks: those of manner are good with probability `inclination`, and the fact is true
    with probability `truthfulness`."""
    manner = {name: rng.random() < inclination for name in MARKS if name != "truth"}
    return Marks(**manner, truth=rng.random() < truthfulness)


def phrase(rng: random.Random, phrases: tuple[str, ...], **given: str) -> str:
    """One of `phrases` at random, with its slots filled from `given` and SLOTS."""
    slots = {name: rng.choice(words) for name, words in SLOTS.items()}
    return rng.choice(phrases).format(**slots, **given)


def compose(
    rng: random.Random, marks: Marks, clause: str, tools: tuple[str, ...], asking: str | None = None
) -> str:
    """A turn in which `clause` states the fact and the other parts show the marks.

    `asking` is a question about a fact that replaces the closing, if the closing is good.
    """
    tool = rng.choice(tools)
    opening = phrase(rng, OPENING_GOOD if marks.opening else OPENING_BAD)
    detail = phrase(rng, DETAIL_GOOD if marks.concreteness else DETAIL_BAD, tool=tool)
    closing = phrase(rng, CLOSING_GOOD if marks.closing else CLOSING_BAD, tool=tool)
    if marks.closing and asking:
        closing = asking
    if not marks.hedging:
        clause = hedged(rng, clause)
    if not marks.phrases:
        clause = f"{rng.choice(FILLER_BAD)} {clause}"
    return " ".join([opening, f"{capitalised(clause)}.", detail, closing])


def hedged(rng: random.Random, clause: str) -> str:
    """`clause` with a hedge before or after it."""
    if rng.random() < 0.5:
        return f"{rng.choice(HEDGE_BEFORE)} {clause}"
    return clause + rng.choice(HEDGE_AFTER)


def capitalised(text: str) -> str:
    """`text` with its first letter in upper case and the rest unchanged."""
    return text[:1].upper() + text[1:]
