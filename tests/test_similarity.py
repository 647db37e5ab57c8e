"""ROUGE-L by hand, and an index that gives the same answers as comparing with every text."""

import random

import pytest
from expertchat.topics.similarity import TextIndex, rouge_l, words


def table_rouge_l(first, second):
    """ROUGE-L by the plain table of dynamic programming."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(first) + len(second))


def random_texts(count, seed):
    """Texts of 1 to 14 words, a few of them common as in a language; some texts nearly repeat others."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(60)]
    texts = []
    for _ in range(count):
        text = rng.choices(vocabulary, [1 / (i + 1) for i in range(60)], k=rng.randint(1, 14))
        if texts and rng.random() < 0.3:
            text = list(rng.choice(texts))
            text[rng.randrange(len(text))] = rng.choice(vocabulary)
        texts.append(text)
    return texts


def test_words():
    assert words("Rye-bread: 220 °C") == ["rye", "bread", "220", "c"]


def test_rouge_l_by_hand():
    # longest common subsequence "the cat mat" of 5 and 4 words: 2 * 3 / 9
    first, second = ["the", "cat", "on", "the", "mat"], ["the", "cat", "a", "mat"]
    assert rouge_l(first, second) == pytest.approx(6 / 9)
    assert rouge_l([], ["a"]) == 0


def test_rouge_l_equals_the_plain_table():
    texts = random_texts(120, 1)
    for first, second in zip(texts, texts[1:] + texts[:1], strict=True):
        assert rouge_l(first, second) == pytest.approx(table_rouge_l(first, second))
    long = [random.Random(2).choice("abc") for _ in range(200)]
    assert rouge_l(long, long[::-1]) == pytest.approx(table_rouge_l(long, long[::-1]))


@pytest.mark.parametrize("above", [0.0, 0.3, 0.5, 0.7, 2 / 3, 0.95, 1.0])
def test_the_closest_text_is_that_of_comparing_with_all(above):
    index, kept, found_any = TextIndex(), [], 0
    for text in random_texts(250, 3):
        similarities = [table_rouge_l(text, other) for other in kept]
        best = max(similarities, default=0.0)
        found = index.closest(text, above)
        if best > above:
            assert found == (similarities.index(best), pytest.approx(best))
            found_any += 1
        else:
            assert found is None
        index.add(text)
        kept.append(text)
    assert (found_any > 20) == (above < 0.95)


def test_a_shared_run_is_found_if_one_of_its_words_is_rare_enough():
    texts = ["the king of france is bald today", "is the king of spain bald"]
    index = TextIndex([words(text) for text in texts])
    assert index.find_shared_run(words("That the king of spain sleeps"), 4, most=2) == 1
    assert index.find_shared_run(words("That the king of spain sleeps"), 5, most=2) is None
    assert index.find_shared_run(words("it is the king"), 3, most=1) is None  # all three in both texts
    assert index.find_shared_run(words("it is the king"), 3, most=2) == 1
    assert index.find_shared_run(words("kings of francesco"), 2, most=2) is None  # complete words only
