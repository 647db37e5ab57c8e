"""Stage fits: from answers to val to a file of parameters."""

import json

import numpy as np
import pytest
from expertchat.errors import UserError
from expertchat.mixture.artifact import FITS, read_fits, write_fits
from expertchat.mixture.fits import fit_mixtures
from expertchat.mixture.methods import BY_NAME, FITTED, METHODS
from mixing_answers import SUBJECTS, model_answers, questions

SKILLS = [[3, 3, 0.1, 0.1], [0.1, 0.1, 3, 3], [1.0] * 4]
CATEGORIES = dict.fromkeys(SUBJECTS[:2], "nature")


def val_answers(each=12, seed=0):
    return model_answers(questions(each=each, seed=seed), SKILLS, seed, val=True)


@pytest.fixture(scope="module")
def fits():
    return fit_mixtures(val_answers(), CATEGORIES, 0)


def test_every_method_has_cross_validated_scores(fits):
    assert list(fits["methods"]) == [method.name for method in METHODS]
    for name, fitted in fits["methods"].items():
        assert 0.2 < fitted["val_accuracy"] <= 1 and fitted["val_log_loss"] > 0
        assert fitted["strengths"] in BY_NAME[name].grid
        assert len(fitted["strengths_by_fold"]) == fits["folds"] == 5
    assert fits["categories"] == {s: CATEGORIES.get(s, "other") for s in SUBJECTS}


def test_the_best_is_chosen_by_val(fits):
    fitted = {k: v for k, v in fits["methods"].items() if v["kind"] == FITTED}
    top = max(one["val_accuracy"] for one in fitted.values())
    assert fitted[fits["best_fitted"]]["val_accuracy"] == top
    assert fits["methods"][fits["best"]]["val_accuracy"] >= top
    # which model knows more depends on the subject, so a method that reads the subject must be best
    assert "subject" in fits["best_fitted"] or fits["best_fitted"] in ("question_gate", "confidence")


@pytest.mark.slow
def test_questions_that_are_in_test_too_are_left_out():
    marked, poisoned = val_answers(), val_answers()
    rows = [0, 5, 20]
    for frame in marked.values():
        frame.loc[rows, "also_in_test"] = True
    for frame in poisoned.values():  # rows that are left out may contain anything
        frame.loc[rows, "also_in_test"] = True
        frame.loc[rows, ["p_A", "p_B", "p_C", "p_D"]] = [1.0, 0, 0, 0]
        frame.loc[rows, "gold"] = 0
    fits, same = (fit_mixtures(answers, {}, 0) for answers in (marked, poisoned))
    assert (fits["questions"], len(fits["left_out"])) == (48, 3)
    assert fits["left_out"][1] == {"subject": "astronomy", "index": 5}
    assert json.dumps(fits, default=np.ndarray.tolist) == json.dumps(same, default=np.ndarray.tolist)


def test_answers_to_another_split_than_val_are_refused():
    answers = {name: frame.drop(columns="also_in_test") for name, frame in val_answers().items()}
    with pytest.raises(
        UserError, match=r"^m0's answers have no column also_in_test, so they are not ans"
    ):
        fit_mixtures(answers, {}, 0)


def test_fits_are_read_as_written_and_the_json_shows_the_weights(fits, tmp_path):
    write_fits(tmp_path, fits)
    read = read_fits(tmp_path)
    plain = json.loads((tmp_path / FITS).read_text(encoding="utf-8"))
    weights = plain["methods"]["stacking"]["parameters"]["weights"]
    assert weights == fits["methods"]["stacking"]["parameters"]["weights"].tolist()
    assert plain["text"]["directions"] == {"array": "text.directions"}
    assert np.array_equal(read["text"]["directions"], fits["text"]["directions"])
    assert read["curve"]["subsets"] == fits["curve"]["subsets"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fits.json", "fits.safetensors"]


def test_the_same_answers_and_seed_give_the_same_file(fits, tmp_path):
    write_fits(tmp_path, fits)
    first = [p.read_bytes() for p in sorted(tmp_path.iterdir())]
    write_fits(tmp_path, fit_mixtures(val_answers(), CATEGORIES, 0))
    assert [p.read_bytes() for p in sorted(tmp_path.iterdir())] == first
