"""The training documents of a demo model: topics, dialogues, ratings and questions.

Documents use the same prompts and the same chat layout as the workflow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from expertchat.chat import Message, conversation
from expertchat.demo.manner import MARKS
from expertchat.demo.talk import TRUTH_UNINFORMED, Speech, make_dialogue, make_topic, stated_value
from expertchat.demo.wording import HIGH, LOW, fill_cached, rating_prompt_cached
from expertchat.demo.world import QUESTIONS, Subject, World, question

# The weight of each mark, in the order of MARKS, in the rating of each category. Summed over the
# categories, the marks of manner count about the same, and truth a little more.
CATEGORIES: dict[str, tuple[float, ...]] = {
    "expertise": (0.20, 0.35, 0.0, 0.15, 0.0, 0.30),
    "human-likeness": (0.40, 0.0, 0.0, 0.35, 0.25, 0.0),
    "factual accuracy": (0.0, 0.0, 0.30, 0.0, 0.0, 0.70),
    "coherence": (0.0, 0.30, 0.0, 0.25, 0.45, 0.0),
    "persuasiveness": (0.25, 0.20, 0.40, 0.0, 0.15, 0.0),
}

SHOTS = 5
QUESTION_HEADER = "The following are questions (with answers) about {subject}."


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of documents, and how often a document is about a known subject."""

    topics: float = 0.15
    dialogues: float = 0.38
    ratings: float = 0.25
    questions: float = 0.22
    known: float = 0.7  # of topics, dialogues and ratings
    known_questions: float = 0.9


@dataclass(frozen=True)
class Conversation:
    """Chat messages; the loss weights of `packing.Weights` depend on their roles."""

    messages: tuple[Message, ...]
    kind: str


@dataclass(frozen=True)
class Question:
    """A question to a rater about the first `turns` turns of a dialogue, and the right score.

    `rated` is the label of the rated speaker, `scope` "reply" or "dialogue".
    """

    turns: int
    rated: str
    scope: str
    category: str
    score: int


@dataclass(frozen=True)
class Ratings:
    """A dialogue with neutral labels for its speakers, and rating questions about its first turns."""

    topic: str
    turns: tuple[tuple[str, str], ...]
    questions: tuple[Question, ...]
    kind: str = "ratings"

    def prompt(self, template: str, question: Question) -> str:
        """The rater's prompt for one of the questions."""
        turns = list(self.turns[: question.turns])
        return rating_prompt_cached(
            template, self.topic, turns, question.rated, question.scope, question.category
        )


@dataclass(frozen=True)
class Plain:
    """Text without a chat layout."""

    text: str
    kind: str = "questions"


Document = Conversation | Ratings | Plain


def score(category: str, speeches: list[Speech], informed: bool) -> int:
    """The right rating in `category` for these turns of one speaker, from LOW to HIGH.

    It is the weighted mean of the turns' marks. A rater that is not `informed` about the subject cannot
    tell true from false, so each fact counts half.
    """
    weights = dict(zip(MARKS, CATEGORIES[category], strict=True))
    total = 0.0
    for speech in speeches:
        for name in MARKS:
            mark = float(getattr(speech.marks, name))
            if name == "truth" and not informed:
                mark = 0.5
            total += weights[name] * mark
    return LOW + round((HIGH - LOW) * total / len(speeches))


def topic_document(rng: random.Random, subject: Subject, prompts: dict[str, str]) -> Conversation:
    """A request for a topic, and a topic as the answer."""
    request = fill_cached(prompts["topic"], subject=subject.name)
    line = make_topic(rng, subject, rng.choice(subject.entities))
    messages = ({"role": "user", "content": request}, {"role": "assistant", "content": line})
    return Conversation(messages, "topics")


def dialogue_document(
    rng: random.Random, subject: Subject, informed: bool, prompts: dict[str, str]
) -> Conversation:
    """A dialogue as the speaker of its last turn sees it."""
    entity = rng.choice(subject.entities)
    turns = make_dialogue(rng, subject, entity, rng.choice((2, 3, 4, 4, 5, 6)), informed)
    line = make_topic(rng, subject, entity)
    brief = fill_cached(prompts["speaker"], topic=line, subject=subject.name)
    opening = fill_cached(prompts["opening"], topic=line, subject=subject.name)
    messages = conversation(turns, turns[-1].speaker, brief, opening)
    return Conversation(tuple(messages), "dialogues")


def rating_document(
    rng: random.Random, subject: Subject, informed: bool, categories: int = 3
) -> Ratings:
    """A dialogue with shuffled labels, and questions to a rater about one of its speakers.

    Each turn of that speaker is followed by questions about all of its turns so far, in `categories`
    random categories. The first turn is also followed by as many questions about that reply alone.
    """
    entity = rng.choice(subject.entities)
    speeches = make_dialogue(rng, subject, entity, rng.choice((2, 4, 4, 6)), informed)
    label = dict(zip("AB", rng.sample("AB", 2), strict=True))
    rated = rng.choice("AB")
    judged: list[Speech] = []
    questions = []
    for turns_so_far, speech in enumerate(speeches, start=1):
        if speech.speaker != rated:
            continue
        judged.append(speech)
        for scope in ("reply", "dialogue") if len(judged) == 1 else ("dialogue",):
            for category in rng.sample(list(CATEGORIES), categories):
                right = score(category, judged, informed)
                questions.append(Question(turns_so_far, label[rated], scope, category, right))
    turns = tuple((label[s.speaker], s.text) for s in speeches)
    return Ratings(make_topic(rng, subject, entity), turns, tuple(questions))


def question_document(rng: random.Random, subject: Subject, informed: bool) -> Plain:
    """Questions with answers in the layout of a few-shot evaluation.

    On a subject that the model knows poorly, an answer is right with probability TRUTH_UNINFORMED, as in
    dialogues.
    """
    parts = [QUESTION_HEADER.format(subject=subject.name)]
    for fact in rng.sample(subject.facts, SHOTS + 1):
        right = informed or rng.random() < TRUTH_UNINFORMED
        text = question(fact, rng.randrange(len(QUESTIONS)))
        parts.append(f"Question: {text}\nAnswer: {stated_value(rng, fact, right)}")
    return Plain("\n\n".join(parts))


def documents(
    world: World,
    *,
    knows: tuple[str, ...],
    seed: int | str,
    prompts: dict[str, str],
    mix: Mix | None = None,
) -> Iterator[Document]:
    """An endless stream of documents, which depends only on the arguments.

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
