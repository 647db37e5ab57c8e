"""The training documents of a demo model: topics, dialogues, ratings and questions.

Documents are rendered with the prompts and the chat layout that the workflow itself uses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

from expertchat.chat import Message, conversation
from expertchat.demo.manner import Marks
from expertchat.demo.talk import TRUTH_UNINFORMED, Speech, claimed, talk, topic
from expertchat.demo.wording import HIGH, LOW, filled, rating_text
from expertchat.demo.world import QUESTIONS, Subject, World, question

# How much each mark counts in each category. Over all categories the marks of manner count about
# the same, and truth a little more.
CATEGORIES: dict[str, Marks] = {
    "expertise": Marks(0.20, 0.35, 0.0, 0.15, 0.0, 0.30),
    "human-likeness": Marks(0.40, 0.0, 0.0, 0.35, 0.25, 0.0),
    "factual accuracy": Marks(0.0, 0.0, 0.30, 0.0, 0.0, 0.70),
    "coherence": Marks(0.0, 0.30, 0.0, 0.25, 0.45, 0.0),
    "persuasiveness": Marks(0.25, 0.20, 0.40, 0.0, 0.15, 0.0),
}

SHOTS = 5
QUESTION_HEADER = "The following are questions (with answers) about {subject}."


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of documents, by number, and how often they are on a known subject."""

    topics: float = 0.15
    dialogues: float = 0.38
    ratings: float = 0.25
    questions: float = 0.22
    known: float = 0.7  # of topics, dialogues and ratings
    known_questions: float = 0.9


@dataclass(frozen=True)
class Conversation:
    """Chat messages; the model learns what it says in them."""

    messages: tuple[Message, ...]
    kind: str


@dataclass(frozen=True)
class Question:
    """A rater's question after the first `turns` turns, and the score that answers it."""

    turns: int
    rated: str
    scope: str
    category: str
    score: int


@dataclass(frozen=True)
class Ratings:
    """A dialogue with neutral labels and what a rater is asked about it and its beginnings."""

    topic: str
    turns: tuple[tuple[str, str], ...]
    questions: tuple[Question, ...]
    kind: str = "ratings"

    def prompt(self, template: str, asked: Question) -> str:
        """The rater's prompt for one of the questions."""
        turns = list(self.turns[: asked.turns])
        return rating_text(template, self.topic, turns, asked.rated, asked.scope, asked.category)


@dataclass(frozen=True)
class Plain:
    """Text without chat layout."""

    text: str
    kind: str = "questions"


Document = Conversation | Ratings | Plain


def score(category: str, speeches: list[Speech], informed: bool) -> int:
    """The rating that these turns of one speaker deserve in `category`.

    A rater that does not know the subject cannot tell true from false and counts every fact half.
    """
    weights = CATEGORIES[category]
    total = 0.0
    for said in speeches:
        for field in fields(Marks):
            shown = float(getattr(said.marks, field.name))
            if field.name == "truth" and not informed:
                shown = 0.5
            total += getattr(weights, field.name) * shown
    return LOW + round((HIGH - LOW) * total / len(speeches))


def topic_document(rng: random.Random, subject: Subject, prompts: dict[str, str]) -> Conversation:
    """The request for a topic, and a topic."""
    request = filled(prompts["topic"], subject=subject.name)
    line = topic(rng, subject, rng.choice(subject.entities))
    messages = ({"role": "user", "content": request}, {"role": "assistant", "content": line})
    return Conversation(messages, "topics")


def dialogue_document(
    rng: random.Random, subject: Subject, informed: bool, prompts: dict[str, str]
) -> Conversation:
    """A dialogue as one of its two speakers sees it, ended by that speaker's turn."""
    entity = rng.choice(subject.entities)
    said = talk(rng, subject, entity, rng.choice((2, 3, 4, 4, 5, 6)), informed)
    line = topic(rng, subject, entity)
    brief = filled(prompts["speaker"], topic=line, subject=subject.name)
    opening = filled(prompts["opening"], topic=line, subject=subject.name)
    messages = conversation(said, said[-1].speaker, brief, opening)
    return Conversation(tuple(messages), "dialogues")


def rating_document(rng: random.Random, subject: Subject, informed: bool, asked: int = 3) -> Ratings:
    """A dialogue under shuffled labels, and what a rater is asked about one of its speakers.

    After each turn of that speaker come `asked` questions about all of its turns so far; after the
    first one as many about that reply alone.
    """
    entity = rng.choice(subject.entities)
    said = talk(rng, subject, entity, rng.choice((2, 4, 4, 6)), informed)
    label = dict(zip("AB", rng.sample("AB", 2), strict=True))
    rated = rng.choice("AB")
    judged: list[Speech] = []
    questions = []
    for count, turn in enumerate(said, start=1):
        if turn.speaker != rated:
            continue
        judged.append(turn)
        for scope in ("reply", "dialogue") if len(judged) == 1 else ("dialogue",):
            for category in rng.sample(list(CATEGORIES), asked):
                mark = score(category, judged, informed)
                questions.append(Question(count, label[rated], scope, category, mark))
    turns = tuple((label[s.speaker], s.text) for s in said)
    return Ratings(topic(rng, subject, entity), turns, tuple(questions))


def question_document(rng: random.Random, subject: Subject, informed: bool) -> Plain:
    """Questions with answers in the layout of a few-shot evaluation.

    On a subject that the model knows poorly, each answer is right as seldom as in its talk.
    """
    parts = [QUESTION_HEADER.format(subject=subject.name)]
    for fact in rng.sample(subject.facts, SHOTS + 1):
        right = informed or rng.random() < TRUTH_UNINFORMED
        asked = question(fact, rng.randrange(len(QUESTIONS)))
        parts.append(f"Question: {asked}\nAnswer: {claimed(rng, fact, right)}")
    return Plain("\n\n".join(parts))


def documents(
    world: World,
    *,
    knows: tuple[str, ...],
    seed: int,
    prompts: dict[str, str],
    mix: Mix | None = None,
) -> Iterator[Document]:
    """Documents without end, the same ones for the same arguments.

    `knows` names the subjects that the model knows well.
    """
    mix = mix or Mix()
    rng = random.Random(f"corpus-{seed}")
    kinds = ("topics", "dialogues", "ratings", "questions")
    shares = [getattr(mix, kind) for kind in kinds]
    known = [subject for subject in world.subjects if subject.name in knows]
    other = [subject for subject in world.subjects if subject.name not in knows] or known
    while True:
        kind = rng.choices(kinds, shares)[0]
        share = mix.known_questions if kind == "questions" else mix.known
        subject = rng.choice(known if rng.random() < share else other)
        informed = subject.name in knows
        if kind == "topics":
            yield topic_document(rng, rng.choice(world.subjects), prompts)
        elif kind == "dialogues":
            yield dialogue_document(rng, subject, informed, prompts)
        elif kind == "ratings":
            yield rating_document(rng, subject, informed)
        else:
            yield question_document(rng, subject, informed)
