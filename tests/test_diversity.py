"""Measures of diversity against hand-worked answers, sacrebleu and plain double loops."""

import math

import pytest
from expertchat.topics.diversity import distinct, nearest_rouge_l, self_bleu
from expertchat.topics.similarity import rouge_l, words
from test_similarity import random_texts


def test_distinct_by_hand():
    texts = [words("a b a b"), words("a b c")]
    assert distinct(texts, 1) == pytest.approx(3 / 7)
    assert distinct(texts, 2) == pytest.approx(3 / 5)  # ab, ba, ab; ab, bc
    assert math.isnan(distinct([["a"]], 2))


def test_self_bleu_of_equal_texts_is_one_and_of_unlike_ones_zero():
    assert self_bleu([list("abcdef")] * 3) == pytest.approx(1)
    assert self_bleu([list("abcd"), list("efgh")]) == 0
    assert math.isnan(self_bleu([["a"]]))


@pytest.mark.parametrize("seed", [5, 6])
def test_self_bleu_equals_sacrebleu(seed):
    from sacrebleu.metrics import BLEU

    texts = random_texts(40, seed)
    metric = BLEU(effective_order=True, tokenize="none")
    spelled = [" ".join(text) for text in texts]
    scores = [
        metric.sentence_score(text, spelled[:i] + spelled[i + 1 :]).score / 100
        for i, text in enumerate(spelled)
    ]
    assert 0.05 < sum(scores) / 40 < 0.95
    assert self_bleu(texts) == pytest.approx(sum(scores) / 40, abs=1e-9)


def test_the_nearest_text_is_that_of_comparing_all_pairs():
    texts = [*random_texts(300, 7), [], ["alone"]]  # more than are compared at once
    expected = [
        max(rouge_l(text, other) for j, other in enumerate(texts) if j != i)
        for i, text in enumerate(texts)
    ]
    assert nearest_rouge_l(texts).tolist() == pytest.approx(expected)
    assert nearest_rouge_l([["a"]]).tolist() == [0]
