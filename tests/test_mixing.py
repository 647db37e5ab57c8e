"""Methods of mixing: results worked out by hand, and properties of every method."""

import numpy as np
import pytest
from expertchat.mixture import choices, gates, pools, stacking
from expertchat.mixture.constants import ORACLE, ROW_NAMES, TITLES
from expertchat.mixture.methods import BY_NAME, CHOICE, FITTED, FIXED, METHODS
from expertchat.mixture.text import describe_text, fit_text
from mixing_answers import SUBJECTS, skilled_table, table_of
from scipy.optimize import check_grad

SKILLS = np.array([[2.0, 0.3, 0.3, 1.0], [0.2, 2.0, 0.4, 1.0], [0.5, 0.5, 0.5, 0.5]])


def weights_of(parameters, table):
    return gates.gate_weights(parameters, table)


def described(first, *others):
    """The tables with features of their questions' words, fitted on the first's."""
    text = fit_text(first.question.tolist(), 0)
    return [t.described(describe_text(text, t.question.tolist())) for t in (first, *others)]


def mixed_by(name, table):
    method = BY_NAME[name]
    return method.mix(method.fit(table, method.grid[0]), table)


HAND = table_of([[[0.7, 0.1, 0.1, 0.1]], [[0.1, 0.5, 0.2, 0.2]]], [0], mass=[[0.2], [0.9]])


def test_uniform_by_hand():
    assert mixed_by("uniform", HAND)[0] == pytest.approx([0.4, 0.3, 0.15, 0.15])


def test_over_the_full_vocabulary_the_mass_on_the_answers_counts():
    # likelihoods .14 .02 .02 .02 and .09 .45 .18 .18; their sums over that of all
    assert mixed_by("uniform_full", HAND)[0] == pytest.approx(np.array([0.23, 0.47, 0.2, 0.2]) / 1.1)


def test_log_linear_by_hand():
    roots = np.sqrt([0.07, 0.05, 0.02, 0.02])
    assert mixed_by("log_linear", HAND)[0] == pytest.approx(roots / roots.sum())


def test_a_majority_wins_and_the_mean_breaks_ties():
    one, other = [0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0]
    assert pools.votes(np.array([[one], [other]])).argmax(1) == [0]
    assert pools.votes(np.array([[one], [other], [[0.45, 0.55, 0, 0]]])[:, :]).argmax(1) == [1]
    assert pools.votes(np.array([[one], [other]])).sum() == pytest.approx(1)


def test_confidence_weights_by_hand():
    # entropies 0 and log 4: weights e^0 and e^-2 log 4 = 1/16
    p = np.array([[[1.0, 0, 0, 0]], [[0.25] * 4]])
    assert pools.confidence_weights(p, 2.0)[:, 0] == pytest.approx([16 / 17, 1 / 17])
    assert pools.confidence_weights(p, 0.0)[:, 0] == pytest.approx([0.5, 0.5])


def test_the_temperature_of_a_calibrated_model_is_recovered():
    table = skilled_table([[1.0] * 4] * 3, each=3_000, temperatures=[0.4, 1.0, 2.5])
    assert table.temperatures == pytest.approx([0.4, 1.0, 2.5], rel=0.07)


def test_a_model_that_is_always_right_is_not_sharpened_to_certainty():
    p = np.full((1, 20, 4), 0.1)
    p[:, :, 0] = 0.7
    sharpened = pools.tempered(np.log(p), pools.fit_temperatures(np.log(p), np.zeros(20, int)))
    # label smoothing: the weight of one question in 21, a quarter of it for each answer
    assert sharpened[0, 0] == pytest.approx(np.array([20.25, 0.25, 0.25, 0.25]) / 21)


def test_the_chosen_models_have_the_most_right_answers():
    right, wrong = [0.4, 0.2, 0.2, 0.2], [0.1, 0.7, 0.1, 0.1]
    p = [[right, right, wrong, wrong, wrong], [wrong, right, right, right, wrong]]
    table = table_of(p, [0] * 5, subject=["art", "art", "biology", "biology", "chess"])
    assert choices.fit_best(table, {}) == {"best": 1}
    fitted = choices.fit_best_by_subject(table, {})
    assert fitted == {"best": 1, "by_subject": {"art": 0, "biology": 1, "chess": 1}}
    assert choices.mix_best_by_subject(fitted, table).argmax(1).tolist() == [0, 0, 0, 0, 1]
    assert choices.oracle_right(table).tolist() == [True, True, True, True, False]
    new = table_of(p, [0] * 5, subject=["dance"] * 5)
    assert np.array_equal(choices.mix_best_by_subject(fitted, new), new.p[1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
class TestEveryMethod:
    """Properties of every method, at any point of its grid."""

    def test_gives_probabilities_and_does_not_read_the_gold(self, method):
        val, test = described(skilled_table(SKILLS, 10), skilled_table(SKILLS, 15, seed=1))
        for point in method.grid:
            parameters = method.fit(val, point)
            p = method.mix(parameters, test)
            assert p.shape == (60, 4) and (p >= 0).all()
            assert p.sum(1) == pytest.approx(1)
            shuffled = np.random.default_rng(0).permutation(test.gold)
            swapped = type(test)(**(vars_of(test) | {"gold": shuffled}))
            assert np.array_equal(method.mix(parameters, swapped), p)

    def test_does_not_depend_on_the_order_of_the_models(self, method):
        val, test = described(skilled_table(SKILLS, 10), skilled_table(SKILLS, 15, seed=1))
        order = [2, 0, 1]
        point = method.grid[0]
        p = method.mix(method.fit(val, point), test)
        turned = method.mix(method.fit(val.only(order), point), test.only(order))
        assert turned == pytest.approx(p, abs=2e-3)  # the optimisers' tolerance

    def test_mixes_models_that_are_equal_into_that_model(self, method):
        # equal models get equal weights, so the mixture has their own answers
        [one] = described(skilled_table(SKILLS[:1], 30))
        twice = one.only([0, 0, 0])
        p = method.mix(method.fit(twice, method.grid[-1]), twice)
        if method.name != "subject_stacking":  # it sharpens by subject
            agrees = p.argmax(1) == one.p[0].argmax(1)
            assert agrees.mean() > (0.9 if "stacking" in method.name else 0.999)  # a letter bias

    def test_is_described_by_a_sentence_and_a_kind(self, method):
        assert method.kind in (CHOICE, FIXED, FITTED)
        assert method.purpose[0].isupper() and method.purpose.endswith(".")
        assert BY_NAME[method.name] is method


def test_planning_knows_the_names_and_titles_of_all_methods():
    assert {method.name: method.title for method in METHODS} == TITLES
    assert list(BY_NAME) == list(TITLES)
    assert {*TITLES, *TITLES.values(), ORACLE} == ROW_NAMES


def vars_of(table):
    return {name: getattr(table, name) for name in type(table).__dataclass_fields__}


def test_global_weights_find_the_skilled_model():
    table = skilled_table([[2.0] * 4, [0.01] * 4, [0.01] * 4], each=100)
    found = weights_of(gates.fit_gate(table, {"models": 0.01}), table)
    assert found.sum(0) == pytest.approx(1) and (found >= 0).all()
    assert found[0, 0] > 0.9


def test_a_model_given_twice_gets_the_weight_of_one():
    table = skilled_table(SKILLS, each=200)
    single = gates.fit_gate(table, {"models": 1e-4})
    double = gates.fit_gate(table.only([0, 1, 2, 2]), {"models": 1e-4})
    one, two = weights_of(single, table)[:, 0], weights_of(double, table.only([0, 1, 2, 2]))[:, 0]
    assert two[2] + two[3] == pytest.approx(one[2], abs=0.02)
    assert two[:2] == pytest.approx(one[:2], abs=0.02)


def test_strong_shrinkage_gives_the_weights_of_the_level_above():
    table = skilled_table(SKILLS, categories={"astronomy": "sky", "botany": "earth"})
    equal = weights_of(gates.fit_gate(table, {"models": 1e9}), table)
    assert equal == pytest.approx(1 / 3)
    overall = weights_of(gates.fit_gate(table, {"models": 1.0}), table)
    strengths = {"models": 1.0, "category": 1e9, "subject": 1e9}
    assert weights_of(gates.fit_gate(table, strengths), table) == pytest.approx(overall, abs=1e-3)
    category = weights_of(gates.fit_gate(table, {"models": 1.0, "category": 1.0}), table)
    below = weights_of(gates.fit_gate(table, strengths | {"category": 1.0}), table)
    assert below == pytest.approx(category, abs=1e-3)
    assert np.ptp(category, axis=1).max() > 0.1  # categories do differ


def test_a_subject_that_was_not_fitted_gets_its_categorys_weights():
    val = skilled_table(SKILLS, categories={name: "all" for name in SUBJECTS})
    parameters = gates.fit_gate(val, {"models": 1.0, "category": 1.0, "subject": 0.1})
    new = table_of(val.p[:, :1], val.gold[:1], subject=["zoology"], category=["all"])
    expected = np.exp(parameters["weights"][0] + parameters["weights"][1])
    assert weights_of(parameters, new)[:, 0] == pytest.approx(expected / expected.sum())


def test_the_gate_follows_the_mass_if_it_shows_which_model_knows():
    generator = np.random.default_rng(0)
    gold, first = generator.integers(4, size=200), generator.random(200) < 0.5
    right, wrong = 0.1 + 0.6 * np.eye(4)[gold], 0.1 + 0.6 * np.eye(4)[(gold + 1) % 4]
    p = [np.where(knows[:, None], right, wrong) for knows in (first, ~first)]
    table = table_of(p, gold, mass=np.where([first, ~first], 0.8, 0.4))
    told = gates.fit_gate(table, {"models": 1.0, "confidence": 1.0})
    assert told["confidence"][2] > 3 and np.abs(told["confidence"][:2]).max() < 1
    assert (gates.mix_by_gate(told, table).argmax(1) == gold).all()


def test_gradients_are_those_of_the_losses():
    generator = np.random.default_rng(0)
    design, own = generator.normal(size=(12, 3)), generator.normal(size=(2, 3, 12))
    likelihood, ridge = generator.uniform(0.1, 1, size=(3, 12)), np.array([0.5, 1.0, 2.0])
    arguments = (design, own, likelihood, ridge, 0.7)
    x = generator.normal(size=3 * 3 + 2)
    value, slope = (lambda x: gates._loss(x, *arguments)[0]), (lambda x: gates._loss(x, *arguments)[1])
    assert check_grad(value, slope, x) < 1e-5
    log_p = np.log(generator.dirichlet(np.ones(4), size=(3, 12)))
    members, gold = np.eye(2)[generator.integers(2, size=12)], generator.integers(4, size=12)
    arguments = (log_p, gold, members, (0.5, 2.0))
    x = generator.normal(size=3 + 4 + 2 * 3)
    value = lambda x: stacking._loss(x, *arguments)[0]  # noqa: E731
    slope = lambda x: stacking._loss(x, *arguments)[1]  # noqa: E731
    assert check_grad(value, slope, x) < 1e-5


def test_stacking_of_independent_calibrated_models_adds_their_evidence():
    # p_m are posteriors of independent evidence under equal priors: the joint posterior is their product
    table = skilled_table([[1.0] * 4, [1.0] * 4], each=3_000, temperatures=[0.5, 3.0])
    parameters = stacking.fit_stacking(table, {"models": 1e-3})
    assert parameters["weights"] == pytest.approx([1.0, 1.0], abs=0.1)
    assert parameters["bias"] - parameters["bias"].mean() == pytest.approx(0, abs=0.1)


def test_stacking_unlearns_a_preference_for_a_letter():
    table = skilled_table([[1.0] * 4], each=1_000)
    scores = table.log_p + np.array([0, 0, 0, 1.5])  # says D too often
    p = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    biased = table_of(p, table.gold, table.subject)
    better = mixed_by("stacking", biased).argmax(1) == table.gold
    assert better.mean() > biased.right.mean() + 0.02
    assert better.mean() == pytest.approx(table.right.mean(), abs=0.01)


def test_stacking_never_follows_a_model_backwards():
    table = skilled_table([[1.0] * 4, [1.0] * 4], each=300)
    contrary = np.stack([table.p[0], (1 - table.p[1]) / 3])
    parameters = stacking.fit_stacking(table_of(contrary, table.gold, table.subject), {"models": 0.1})
    assert parameters["weights"][1] == 0 and parameters["weights"][0] > 0.5


def test_similar_questions_have_similar_features():
    texts = ["the moons of Saturn", "a moon of Saturn's rings", "how yeast makes dough rise"] * 4
    features = describe_text(fit_text(texts, 0), texts)
    cosines = features @ features.T
    assert cosines[0, 3] == pytest.approx(1)
    assert cosines[0, 1] > cosines[0, 2] + 0.15
    assert not describe_text(fit_text(texts, 0), ["?!"]).any()


def test_other_features_can_replace_words():
    table = skilled_table(SKILLS, 5)
    assert table.described(np.ones((20, 7))).text.shape == (20, 7)
    with pytest.raises(ValueError, match="features of 3 questions for a table of 20"):
        table.described(np.ones((3, 7)))
