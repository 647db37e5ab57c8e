"""The gate: the models' judgement whether a text is a topic of its subject.

A model scores the text for its own subject and for other subjects of the experiment, and only the
contrast counts: a small model says yes to nearly everything, and finds fluent texts likely whatever they
are about. Contextual calibration likewise compares an answer's probability with that for an input
without content (Zhao et al. 2021, "Calibrate before use"). The scores are

- `likelihood`: log-probability per word of the text as a reply to the topic prompt, a channel model
  (Min et al. 2022, "Noisy channel language model prompting"), or
- `answer`: log-odds of yes against no to the question in `topic_gate.jinja`.

Of several texts for one topic, the best is the one with the highest sum of how natural it is and its
contrast (best-of-n sampling): the models find it natural, and it fits the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from expertchat import prompts
from expertchat.checkpoints import Checkpoints
from expertchat.console import batch_progress, progress_bar
from expertchat.engine.interface import Engine, Question, names_by_engine
from expertchat.engine.pieces import answer_saved, unsaved
from expertchat.prompts import GATE
from expertchat.settings.topics import Gate
from expertchat.topics.similarity import words

NOT_A_TOPIC, NOT_THE_BEST = "not a topic", "not the best"
OTHERS = 3  # other subjects that a topic's own subject is compared with, at most


def pass_gate(
    engines: Mapping[str, Engine],
    candidates: Sequence[dict[str, Any]],
    settings: Gate | None,
    texts: Mapping[str, str],
    subjects: Sequence[str],
    pieces: Callable[[str], Checkpoints | None] = unsaved,
) -> list[dict[str, Any]]:
    """The candidates; those that have no reason to be rejected get a probability `gate` and a `merit`.

    A candidate whose probability is below the threshold gets the reason `NOT_A_TOPIC`. `merit` is the
    sum by which the best is chosen. `texts` are the prompt templates by name, `subjects` those of the
    experiment. All models judge all candidates, so that a topic is judged alike whoever wrote it.
    `pieces(name)`: checkpoints for judgements that are not finished.
    """
    tested = [number for number, candidate in enumerate(candidates) if candidate["reason"] is None]
    passed = [dict(candidate) for candidate in candidates]
    if settings is None or not tested:
        return passed
    asked = [(passed[number]["topic"], passed[number]["subject"]) for number in tested]
    different = list(dict.fromkeys(asked))  # small models often write the same text twice
    scores = dict(
        zip(different, text_scores(engines, different, settings, texts, subjects, pieces), strict=True)
    )
    for number, (text, subject) in zip(tested, asked, strict=True):
        own, *others = scores[text, subject]
        contrast = float(own - np.mean(others))
        gate = probability(contrast)
        reason = NOT_A_TOPIC if gate < settings.threshold else None
        merit = naturalness(own, text, settings) + contrast
        passed[number] |= {"gate": gate, "merit": merit, "reason": reason}
    return passed


def naturalness(own: float, text: str, settings: Gate) -> float:
    """How natural the models find a text, from its score `own` for its own subject, in nats.

    A likelihood is divided by the number of different words: a word that was there before is likely, so
    that otherwise the best texts would be those that repeat themselves.
    """
    if settings.score == "answer":
        return float(own)
    found = words(text)
    return float(own) * len(found) / len(set(found))


def probability(contrast: float) -> float:
    """The probability that a text is a topic of its subject: the logistic function of the contrast.

    The contrast is the score for the own subject minus the mean score for other subjects. The
    probability is 0.5 if the models see no difference.
    """
    return float(1 / (1 + np.exp(-contrast)))


def text_scores(
    engines: Mapping[str, Engine],
    topics: Sequence[tuple[str, str]],
    settings: Gate,
    texts: Mapping[str, str],
    subjects: Sequence[str],
    pieces: Callable[[str], Checkpoints | None] = unsaved,
) -> np.ndarray:
    """Mean scores over the models, [topics, 1 + others]: for the own subject and for other subjects."""
    asked = [
        (text, subject) for text, own in topics for subject in (own, *other_subjects(own, subjects))
    ]
    by_subject: dict[str, list[int]] = {}  # questions of one subject share most of their prompt
    for number, (_, subject) in enumerate(asked):
        by_subject.setdefault(subject, []).append(number)
    groups = [
        [gate_question(*asked[number], settings, texts) for number in numbers]
        for numbers in by_subject.values()
    ]
    order = [number for numbers in by_subject.values() for number in numbers]
    scores = np.zeros(len(asked))
    served = names_by_engine(engines)
    with progress_bar(len(asked) * len(served), "gate", "questions") as progress:
        for engine, names in served:
            on_batch = batch_progress(progress, len(asked), len(asked))
            saved = pieces("gate of " + "+".join(names))
            found = chain.from_iterable(answer_saved(engine, groups, saved, on_batch))
            for number, answers in zip(order, found, strict=True):
                share = len(names) / len(engines)
                scores[number] += share * score(answers, asked[number][0], settings)
    return scores.reshape(len(topics), -1)


def gate_question(text: str, subject: str, settings: Gate, texts: Mapping[str, str]) -> Question:
    """The question whose answers' probabilities score a text for a subject."""
    if settings.score == "answer":
        return Question(prompts.messages(texts[GATE], topic=text, subject=subject), ["Yes", "No"])
    named = {"subject": subject, "audience": "", "kind": "", "taken": []}
    return Question(prompts.messages(texts["topic"], **named), [text])


def score(answers: np.ndarray, text: str, settings: Gate) -> float:
    """The score of a text, from the log-probabilities of the answers to its `gate_question`, in nats."""
    if settings.score == "answer":
        yes, no = answers
        return float(yes - no)
    return float(answers[0]) / len(words(text))


def other_subjects(own: str, subjects: Sequence[str]) -> list[str]:
    """The subjects that `own` is compared with: at even distances in the list, which goes round."""
    start = subjects.index(own)
    others = [*subjects[start + 1 :], *subjects[:start]]
    count = min(OTHERS, len(others))
    return [others[len(others) * number // count] for number in range(count)]
