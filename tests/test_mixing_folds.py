"""Cross-validation within val measures how a fit does on new questions, not how well it remembers."""

import numpy as np
import pytest
from expertchat.errors import UserError
from expertchat.mixture.curve import choose_subsets, fit_curve, greedy_order, score_curve
from expertchat.mixture.folds import FOLDS, Splits, cross_validate, make_folds
from expertchat.mixture.methods import BY_NAME, FITTED, Method
from expertchat.mixture.table import build_table
from expertchat.mixture.text import describe_text, fit_text
from mixing_answers import SUBJECTS, answered, questions, skilled_table


def splits_of(table):
    return Splits(table, make_folds(table.subject, 0))


def test_folds_are_even_in_each_subject():
    subject = np.repeat(["art", "law", "zoology"], [10, 7, 3])
    folds = make_folds(subject, 0)
    assert np.bincount(folds).tolist() == [4] * FOLDS
    for name in set(subject):
        counts = np.bincount(folds[subject == name], minlength=FOLDS)
        assert np.ptp(counts) <= 1
    assert not np.array_equal(folds, make_folds(subject, 1))
    assert np.array_equal(folds, make_folds(subject, 0))


def test_too_few_questions():
    with pytest.raises(
        UserError, match=r"^mixtures are fitted on at least 5 val questions, and 4 can be used: raise"
    ):
        make_folds(np.array(["art"] * 4), 0)


def test_every_question_is_judged_by_a_fit_without_it():
    table = skilled_table([[1.0] * 4], each=10)
    seen = []

    def fit(part, strengths):
        seen.append(len(part))
        return {"known": set(zip(part.subject.tolist(), part.index.tolist(), strict=True))}

    def mix(parameters, part):
        rows = zip(part.subject.tolist(), part.index.tolist(), strict=True)
        assert not parameters["known"] & set(rows)
        return part.p[0]

    grid = ({"a": 1.0}, {"a": 2.0})
    found = cross_validate(Method("spy", "spy", "Looks.", FITTED, mix, fit, grid), splits_of(table))
    # by point: 5 fits without a fold, 10 without two; then one on all
    assert sorted(seen) == [24] * 20 + [32] * 10 + [40]
    assert found.accuracy == table.right.mean()


def test_a_hyperparameter_is_never_chosen_by_the_fold_that_it_is_judged_on():
    """A grid of random guesses would look better than chance if it were chosen with the judged fold."""
    generator = np.random.default_rng(0)
    table = skilled_table([[0.0] * 4], each=100)
    guesses = {}

    def mix(parameters, part):
        keys = zip(part.subject.tolist(), part.index.tolist(), strict=True)
        seeds = [parameters["point"] * 100_000 + SUBJECTS.index(s) * 1_000 + i for s, i in keys]
        for seed in seeds:
            if seed not in guesses:
                guesses[seed] = generator.dirichlet(np.ones(4))
        return np.array([guesses[seed] for seed in seeds])

    grid = tuple({"point": k} for k in range(40))
    method = Method("guess", "guess", "Guesses.", FITTED, mix, lambda part, point: point, grid)
    found = cross_validate(method, splits_of(table))
    chance = 1 + 1 / 2 + 1 / 3  # mean of -log of a Dirichlet(1, 1, 1, 1)'s part: 1 + 1/2 + 1/3
    every = [mix(point, table)[np.arange(400), table.gold] for point in grid]
    naive = min(-np.log(p).mean() for p in every)
    assert naive < chance - 0.08  # the best of 40 in sight of all questions
    assert found.log_loss > naive + 0.06 and found.log_loss == pytest.approx(chance, abs=0.08)


@pytest.mark.slow
def test_cross_validation_predicts_the_test_accuracy():
    """Mixing models that guess gains nothing, and cross-validation does not predict a gain."""
    for skill, least, most in ((0.0, 0.17, 0.33), (1.0, 0.6, 0.86)):
        val, test = (skilled_table([[skill] * 4] * 3, each=75, seed=s) for s in (0, 1))
        for name in ("weights", "subject_weights", "stacking", "subject_stacking"):
            found = cross_validate(BY_NAME[name], splits_of(val))
            reached = (found.method.mix(found.parameters, test).argmax(1) == test.gold).mean()
            assert least < found.accuracy < most  # three standard errors around the expected value
            assert found.accuracy < reached + 0.08  # two and a half standard errors of 300 questions


def topical(seed, differ, each=60):
    """Two models in one subject. If they `differ`, each knows the questions with the words of one of two
    topics; else each knows half of all questions, independently of their words."""
    asked = questions(("science",), each * 2, seed)
    generator = np.random.default_rng(seed)
    first = generator.random(len(asked)) < 0.5
    words = np.where(first, "planets orbit the sun", "yeast makes the dough rise")
    asked["question"] = [f"{w}, version {k % 7}" for k, w in enumerate(words)]
    asked["A"] = asked["B"] = asked["C"] = asked["D"] = "an answer"
    known = first if differ else generator.random(len(asked)) < 0.5
    # both are equally confident about what they know and what they do not
    right, wrong = np.eye(4)[asked["gold"]], np.eye(4)[(asked["gold"] + 1) % 4]
    scores = [2 * np.where(k[:, None], right, wrong) for k in (known, ~known)]
    frames = {f"m{n}": answered(asked, s + 1e-3 * np.arange(4)) for n, s in enumerate(scores)}
    return build_table(frames, {})


@pytest.mark.parametrize("differ", [True, False])
def test_the_gate_is_best_only_if_the_words_show_which_model_knows(differ):
    val, test = topical(0, differ), topical(1, differ)
    text = fit_text(val.question.tolist(), 0)
    val, test = (t.described(describe_text(text, t.question.tolist())) for t in (val, test))
    splits = splits_of(val)
    names = ("weights", "question_gate", "neighbours")
    found = {name: cross_validate(BY_NAME[name], splits) for name in names}
    gate = found["question_gate"]
    gain = gate.accuracy - found["weights"].accuracy
    reached = (gate.method.mix(gate.parameters, test).argmax(1) == test.gold).mean()
    if differ:
        assert gate.accuracy > 0.95 and reached > 0.95 and gain > 0.3
        assert found["neighbours"].accuracy > found["weights"].accuracy + 0.2  # the check agrees
    else:
        assert abs(gain) < 0.14 and abs(reached - 0.5) < 0.14  # three standard errors
        assert gate.log_loss > found["weights"].log_loss - 0.02


def test_subsets_are_all_of_a_few_models_and_a_sample_of_many():
    assert choose_subsets(3, 0) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    many = choose_subsets(10, 0)
    sizes = np.bincount([len(subset) for subset in many])
    assert sizes.tolist() == [0, 10, *[12] * 7, 10, 1]
    assert len(set(many)) == len(many) and many == choose_subsets(10, 0) != choose_subsets(10, 1)


def test_the_greedy_order_adds_the_most_helpful_model_first():
    table = skilled_table([[0.2] * 4, [3, 3, 0, 0], [0, 0, 3, 3]], each=100)
    assert greedy_order(table)[:2] in ([1, 2], [2, 1])
    assert greedy_order(table)[2] == 0


def test_the_curve_by_hand():
    val, test = (skilled_table([[3, 3, 0, 0], [0, 0, 3, 3], [1.0] * 4], seed=s) for s in (0, 1))
    rows = score_curve(fit_curve(val, {"models": 1.0}, 0), test)
    assert [(row["models"], row["sets"], row["of"]) for row in rows] == [(1, 3, 3), (2, 3, 3), (3, 1, 1)]
    single = test.right.mean(1)
    assert rows[0]["uniform"] == pytest.approx(
        {"mean": single.mean(), "least": single.min(), "greatest": single.max()}
    )
    pairs = [(test.p[i] + test.p[j]).argmax(1) == test.gold for i, j in ((0, 1), (0, 2), (1, 2))]
    assert rows[1]["uniform"]["mean"] == pytest.approx(np.mean(pairs))
    assert rows[2]["greedy"]["uniform"] == rows[2]["uniform"]["mean"]
    assert rows[2]["greedy"]["stacking"] == pytest.approx(rows[2]["stacking"]["mean"], abs=0.01)
    assert len(rows[1]["greedy"]["set"]) == 2
