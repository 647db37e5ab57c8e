"""The gate: the models' yes for a topic's own subject, in contrast with their yes for other subjects."""

import math

import numpy as np
import pytest
from expertchat.engine.interface import Pieces
from expertchat.engine.local import LocalEngine
from expertchat.settings.models import Load
from expertchat.settings.topics import Gate
from expertchat.topics.gate import gate_question, naturalness, other_subjects, pass_gate

ASK = "{{ topic }}|{{ subject }}{% block reply %}Answer: {% endblock %}"
TEXTS = {"topic_gate": ASK, "topic": "{{ subject }}"}
ANSWER, LIKELIHOOD = Gate(score="answer", threshold=0.5), Gate(threshold=0.5)
SUBJECTS = ["law", "tea", "art", "zoo", "sea", "sky"]


class Judge:
    """A model with log-odds of yes of `bias`, and 1 more for each letter that text and subject share."""

    pieces = Pieces(64, 1000)

    def __init__(self, bias):
        self.bias, self.asked = bias, 0

    def answer_logprobs(self, groups, on_batch):
        self.asked += sum(len(group) for group in groups)
        return [[self._answer(question) for question in group] for group in groups]

    def _answer(self, question):
        assert question.answers == ["Yes", "No"]
        assert question.prompt[-1] == {"role": "assistant", "content": "Answer: "}
        text, subject = question.prompt[0]["content"].split("|")
        odds = self.bias + len(set(text) & set(subject))
        return np.array([-math.log1p(math.exp(-odds)), -math.log1p(math.exp(odds))])


def candidate(topic, subject="law", reason=None):
    return {"topic": topic, "subject": subject, "reason": reason, "gate": None}


def test_the_own_subject_is_compared_with_others_at_even_distances():
    assert other_subjects("law", SUBJECTS) == ["tea", "art", "sea"]
    assert other_subjects("sea", SUBJECTS) == ["sky", "law", "art"]
    assert other_subjects("tea", ["law", "tea"]) == ["law"]


def probabilities(engines, topics, settings, texts, subjects):
    """The probability of each of `topics` (text, subject)."""
    candidates = [candidate(text, subject) for text, subject in topics]
    return [row["gate"] for row in pass_gate(engines, candidates, settings, texts, subjects)]


@pytest.mark.parametrize("bias", [-5, 0, 5])
def test_a_models_inclination_to_yes_does_not_count(bias):
    # "law" has three letters of its own; "tea", "zoo" and "sea" share a, none and a with it
    own, neither = probabilities(
        {"a": Judge(bias)},
        [("law", "law"), ("xyx", "law")],
        ANSWER,
        TEXTS,
        ["law", "tea", "zoo", "sea"],
    )
    assert own == pytest.approx(1 / (1 + math.exp(-(3 - 2 / 3))))
    assert neither == 0.5


def test_models_are_averaged_in_log_odds():
    class Blind(Judge):
        def _answer(self, question):
            return np.log([0.5, 0.5])

    asked = [("law", "law")], ANSWER, TEXTS, ["law", "zoo"]
    (one,) = probabilities({"a": Judge(0)}, *asked)
    (both,) = probabilities({"a": Judge(0), "b": Blind(0)}, *asked)
    assert math.log(both / (1 - both)) == pytest.approx(0.5 * math.log(one / (1 - one)))


def test_merit_is_the_sum_of_score_and_contrast():
    (row,) = pass_gate({"a": Judge(2)}, [candidate("law")], ANSWER, TEXTS, ["law", "tea"])
    assert row["merit"] == pytest.approx((2 + 3) + (3 - 1))


def test_words_that_repeat_do_not_make_a_text_natural():
    """The likelihood counts per different word; an answer of the models counts as it is."""
    assert naturalness(-3.0, "an art or an art of tea", LIKELIHOOD) == pytest.approx(-3.0 * 7 / 5)
    assert naturalness(-3.0, "an art or a craft", LIKELIHOOD) == -3.0
    assert naturalness(-3.0, "tea or tea", ANSWER) == -3.0


def test_equal_texts_are_judged_once():
    judge = Judge(0)
    rows = [candidate("law"), candidate("law"), candidate("law", "zoo")]
    first, second, other = pass_gate({"a": judge}, rows, ANSWER, TEXTS, ["law", "zoo"])
    assert first == second and other["gate"] < first["gate"]
    assert judge.asked == 4  # two texts with their subjects, each for two subjects


def test_only_texts_without_a_fault_are_judged_and_those_below_the_threshold_rejected():
    judge = Judge(0)
    found = pass_gate(
        {"a": judge},
        [candidate("law"), candidate("", reason="empty"), candidate("tea"), candidate("zoo")],
        ANSWER,
        TEXTS,
        ["law", "zoo"],
    )
    assert [row["reason"] for row in found] == [None, "empty", None, "not a topic"]
    assert (
        found[1]["gate"] is None and found[0]["gate"] > 0.9 > found[2]["gate"] > 0.5 > found[3]["gate"]
    )
    assert judge.asked == 6  # three texts, each for two subjects


def test_without_a_gate_nothing_is_asked():
    rows = [candidate("law")]
    assert pass_gate({}, rows, None, {}, SUBJECTS) == rows


@pytest.mark.parametrize("settings", [ANSWER, LIKELIHOOD])
def test_real_models_judge_with_the_shipped_prompts(root, llama_folder, settings):
    """The probability agrees with a computation question by question."""
    texts = {
        name: (root / f"config/prompts/{name}.jinja").read_text(encoding="utf-8")
        for name in ("topic", "topic_gate")
    }
    engine = LocalEngine(llama_folder, Load(dtype="float32"), 8)
    text, subjects = "Rye or wheat", ["baking", "law"]
    (value,) = probabilities({"a": engine}, [(text, "baking")], settings, texts, subjects)
    questions = [gate_question(text, subject, settings, texts) for subject in subjects]
    (own,), (other,) = (engine.answer_logprobs([[question]])[0] for question in questions)
    contrast = (
        (own - other)[0] / 3 if settings is LIKELIHOOD else np.subtract(*own) - np.subtract(*other)
    )
    assert value == pytest.approx(1 / (1 + math.exp(-contrast)), rel=1e-4)
    prompt = str(questions[0].prompt)
    assert "baking" in prompt and ("Rye or wheat" in prompt) == (settings is ANSWER)
