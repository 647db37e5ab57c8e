"""Drawing keeps and draws exactly the tokens that sorting the complete distribution would."""

import itertools

import pytest
import torch
from expertchat.engine.generate.sampling import draw, kept_tokens, likeliest, penalise
from expertchat.settings.decoding import Decoding

VOCABULARY = 5003  # a prime above the first two numbers of candidates: no sum of ties is exactly top_p
LARGEST = 1 - 2**-53  # the largest uniform number


def plain_distribution(logits, decoding):
    """Probabilities [rows, V] after the filters, from the sorted vocabulary; ties by number."""
    scaled = logits / decoding.temperature
    kept = scaled.softmax(-1).double()
    order = scaled.sort(dim=-1, descending=True, stable=True).indices
    if decoding.top_k is not None and decoding.top_k < logits.shape[1]:
        limit = scaled.gather(1, order[:, decoding.top_k - 1 : decoding.top_k])
        kept = kept * (scaled >= limit)
        kept = kept / kept.sum(-1, keepdim=True)
    if decoding.top_p < 1:
        ordered = kept.gather(1, order)
        ordered[ordered.cumsum(-1) - ordered >= decoding.top_p] = 0
        kept = torch.zeros_like(kept).scatter(1, order, ordered)
    kept = kept * (kept >= decoding.min_p * kept.amax(-1, keepdim=True))
    return kept / kept.sum(-1, keepdim=True)


def plain_draw(logits, uniform, decoding):
    """The inverse of the cumulative distribution at `uniform` [rows]."""
    cumulative = plain_distribution(logits, decoding).cumsum(-1)
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def random_logits():
    """Rows from nearly flat to very peaked."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1, 2, 3, 5, 20]).unsqueeze(1)
    return torch.randn(6, VOCABULARY, generator=generator) * spread


def adversarial_logits():
    """Ties, impossible tokens, and values far from 0."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(VOCABULARY, generator=generator)
    impossible = noise.clone()
    impossible[torch.rand(VOCABULARY, generator=generator) < 0.999] = -torch.inf
    one = torch.full((VOCABULARY,), -1e4)
    one[4321] = 1e4
    two = one.clone()
    two[7] = 1e4
    return torch.stack(
        [
            torch.zeros(VOCABULARY),  # flat
            noise.round(),  # thousands of ties
            (3 * noise).round(),
            impossible,
            one,
            two,
            noise - 1e5,
            torch.linspace(0, 30, VOCABULARY),  # the likeliest come last
        ]
    )


SETTINGS = [
    Decoding(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    for top_k, top_p, min_p, temperature in itertools.product(
        [None, 1, 50, 2048, 2 * VOCABULARY],
        [1.0, 0.95, 0.51, 1e-6],
        [0.0, 0.02, 0.9],
        [1.0, 1.7],
    )
]


def equal_up_to_rounding(found, expected, decoding):
    """Whether two distributions [V] are equal, but for tokens where rounding may decide."""
    close = torch.allclose(found, expected, rtol=1e-5, atol=1e-12)
    sizes = int((found > 0).sum()), int((expected > 0).sum())
    # the sum that reaches top_p, or the ratio min_p, may be off by rounding
    return close or ((decoding.top_p < 1 or decoding.min_p > 0) and abs(sizes[0] - sizes[1]) == 1)


@pytest.mark.parametrize("make", [random_logits, adversarial_logits])
def test_the_kept_tokens_and_their_probabilities_are_those_of_the_sorted_vocabulary(make):
    logits = make()
    rounded = 0
    for decoding in SETTINGS:
        expected = plain_distribution(logits, decoding)
        for size in (256, 2048, VOCABULARY):
            if size < VOCABULARY and size <= (decoding.top_k or 0):
                continue
            ids, weights, found_all = kept_tokens(logits / decoding.temperature, size, decoding)
            assert bool((ids.diff(dim=-1) > 0).all())
            found = torch.zeros_like(expected).scatter(1, ids, weights / weights.sum(-1, keepdim=True))
            assert size < VOCABULARY or found_all.all()
            for row in found_all.nonzero().squeeze(1).tolist():
                assert equal_up_to_rounding(found[row], expected[row], decoding), (decoding, size, row)
                rounded += not torch.equal(found[row] > 0, expected[row] > 0)
    assert rounded <= 2


@pytest.mark.parametrize("make", [random_logits, adversarial_logits])
def test_the_same_uniform_number_draws_the_same_token(make):
    logits = make()
    generator = torch.Generator().manual_seed(2)
    differing = 0
    for decoding in SETTINGS:
        uniform = torch.rand(len(logits), generator=generator, dtype=torch.float64)
        found = draw(logits, uniform, decoding)
        differing += int((found != plain_draw(logits, uniform, decoding)).sum())
    assert differing <= 2  # a number within rounding of a token's border


@pytest.mark.parametrize("make", [random_logits, adversarial_logits])
@pytest.mark.parametrize("number", [0.0, 0.5, LARGEST])
def test_only_kept_tokens_are_drawn(make, number):
    logits = make()
    uniform = torch.full((len(logits),), number, dtype=torch.float64)
    for decoding in SETTINGS:
        tokens = draw(logits, uniform, decoding).unsqueeze(1)
        assert bool((plain_distribution(logits, decoding).gather(1, tokens) > 0).all()), decoding


def test_of_equally_likely_tokens_the_first_are_kept():
    logits = torch.zeros(1, 1000)
    ids, weights, found_all = kept_tokens(logits, 1000, Decoding(top_p=0.305))
    assert ids[weights > 0].tolist() == list(range(305)) and found_all.tolist() == [True]
    _, _, found_all = kept_tokens(logits, 500, Decoding(top_p=0.305))
    assert found_all.tolist() == [False]  # which of the ties come first cannot be told from 500 of them
    numbers = torch.tensor([0, 0.5, LARGEST], dtype=torch.float64)
    assert draw(logits.repeat(3, 1), numbers, Decoding(top_p=0.305)).tolist() == [0, 152, 304]


def test_top_k_keeps_all_that_are_as_likely_as_its_last():
    logits = torch.tensor([[3.0, 1, 1, 2, 1, 0]])
    ids, weights, _ = kept_tokens(logits, 6, Decoding(top_k=3))
    assert ids[weights > 0].tolist() == [0, 1, 2, 3, 4]
    ids, weights, _ = kept_tokens(logits, 6, Decoding(top_k=2))
    assert ids[weights > 0].tolist() == [0, 3]


def test_a_row_is_searched_among_more_tokens_only_if_it_needs_them(monkeypatch):
    searched, topk = [], torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor,
        "topk",
        lambda self, k, dim: searched.append((len(self), k)) or topk(self, k, dim=dim),
    )
    logits = random_logits()  # at top_p 0.9 the last two keep fewer than 256 tokens, the first two most
    draw(logits, torch.full((6,), 0.5, dtype=torch.float64), Decoding(top_p=0.9))
    assert [k for _, k in searched] == [256, 2048, VOCABULARY]
    rows = [n for n, _ in searched]
    assert rows[0] == 6 and rows[1] == 4 and 1 <= rows[2] < 4


def test_a_draw_does_not_depend_on_the_other_rows():
    logits, decoding = torch.cat([random_logits(), adversarial_logits()]), Decoding(top_p=0.95)
    uniform = torch.linspace(0, 0.99, len(logits), dtype=torch.float64)
    for settings in (decoding, Decoding(), Decoding(top_k=20)):
        together = draw(logits, uniform, settings)
        alone = [draw(logits[i : i + 1], uniform[i : i + 1], settings) for i in range(len(logits))]
        assert together.tolist() == torch.cat(alone).tolist()


def test_a_row_that_is_not_a_number_does_not_disturb_the_others():
    logits, uniform = random_logits(), torch.full((6,), 0.3, dtype=torch.float64)
    broken = logits.clone()
    broken[2] = torch.nan
    for settings in (Decoding(), Decoding(top_p=0.9), Decoding(top_k=3, min_p=0.1)):
        found, expected = draw(broken, uniform, settings), draw(logits, uniform, settings)
        assert 0 <= int(found[2]) < VOCABULARY
        found[2] = expected[2]
        assert found.equal(expected)


def test_half_precision_is_drawn_in_32_bits():
    logits = random_logits().bfloat16()
    uniform = torch.full((6,), 0.7, dtype=torch.float64)
    for decoding in (Decoding(), Decoding(top_p=0.9), Decoding(strategy="greedy")):
        assert draw(logits, uniform, decoding).equal(draw(logits.float(), uniform, decoding))


def test_the_likeliest_tokens_have_their_probabilities():
    logits = random_logits()
    probabilities, ids = likeliest(logits, 4)
    expected = logits.softmax(-1).topk(4)
    assert ids.equal(expected.indices) and torch.allclose(probabilities, expected.values, atol=1e-6)


def test_a_penalised_token_has_its_positive_logit_divided_and_its_negative_one_multiplied_once():
    logits = torch.tensor([[2.0, -2, 4, 0], [1, 1, 1, -1]])
    seen = torch.tensor([[0, 1, 1, 0], [3, 0, 3, 3]])
    assert penalise(logits, seen, 2.0).tolist() == [[1, -4, 4, 0], [0.5, 1, 1, -2]]
