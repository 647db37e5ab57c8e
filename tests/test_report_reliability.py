"""The reliability section shows what was measured, and gives reasons for what was not."""

import json

import pytest
from expertchat.ratings.anchors import check_anchors
from expertchat.reliability.artifact import rater_faults
from expertchat.report.cautions import rater_cautions
from expertchat.report.reliability import measures_by_round, section
from expertchat.report.reliability_tables import (
    agreement_table,
    anchor_table,
    bias_table,
    canary_table,
    rater_table,
    reasons,
)
from expertchat.report.results import Results
from expertchat.statistics import exact_interval
from small_experiment import small_config, write_experiment

pytestmark = pytest.mark.slow

ANCHORS = [  # eight topics, in half of which the good anchor is rated higher
    {"anchor_id": f"{topic}{quality}", "topic": str(topic), "quality": quality, "category": "x"}
    | {"score": float(quality == "good") if topic % 2 else 0.5 - (quality == "good"), "valid_mass": 0.9}
    for topic in range(8)
    for quality in ("good", "bad")
]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    """A small experiment with some extra figures for the base models, written by hand."""
    run = write_experiment(tmp_path_factory.mktemp("reliability"), small_config())
    path = run.folder("reliability", 1) / "reliability.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    figure = {"value": 0.75, "interval": [0.5, 0.875], "n": 40, "topics": 4, "reason": None}
    (effect,) = [row for row in found["injection"] if (row["rater"], row["kind"]) == ("llama", "any")]
    effect |= figure
    row = next(row for row in found["between_raters"] if row["category"] == "overall")
    row |= {"k": 3, "alpha": figure, "icc": figure}
    third = {"rater": "judge", "relation": "third", "scope": "reply", "ratings": 8, "unusable": 2}
    third |= dict.fromkeys(("valid_mass", "entropy", "mean", "deviation"), 0.5)
    found["raters"].append(third | {"bits_per_byte": None})
    found["anchor_checks"] = [
        {"rater": name, **check_anchors(rows)} for name, rows in (("llama", ANCHORS), ("mixtral", []))
    ]
    path.write_text(json.dumps(found), encoding="utf-8")
    return Results({"models": ["llama", "mixtral"], "rounds": 1}, run)


def test_a_figure_comes_with_its_interval_and_count(results):
    by_round = measures_by_round(results)
    assert [name for name, _ in by_round] == ["base models", "after round 1"]
    rows = agreement_table(results, by_round).rows
    assert rows[0][3:] == [3, "0.75", "0.50 to 0.88", "40", "0.75", "0.50 to 0.88", "40"]
    (swayed,) = [row for row in bias_table(results, by_round).rows if row[4] == "+0.75"]
    assert (swayed[0].name, swayed[1], swayed[5]) == ("llama", "injection", "+0.50 to +0.88")


def test_a_blind_rater_is_named_in_the_table_and_among_the_cautions(results):
    table = anchor_table(results, measures_by_round(results)[:1])
    ((model, when, verdict, right, bounds, mass),) = table.rows
    assert (model.name, when, verdict, right, mass) == (
        "llama",
        "base models",
        "blind",
        "4 of 8",
        "90.0 %",
    )
    low, high = exact_interval(4, 8)
    assert bounds == f"{100 * low:.1f} to {100 * high:.1f}"
    assert "Unknown: mixtral: there are no anchors" in table.note
    ((rater, clause),) = rater_cautions(results)
    caution = f"{rater}: {clause}."
    assert caution.startswith("llama: it is a blind rater: of the two versions of 8 anchor topics")


def test_a_rater_whose_ratings_are_mostly_unusable_is_named_with_its_mass():
    rows = [
        {"rater": name, "ratings": 60, "unusable": unusable, "valid_mass": mass}
        for name, unusable, mass in (("a", 60, 0.2), ("a", 10, 0.6), ("b", 30, 0.5))
    ]
    measures = {"raters": rows, "anchor_checks": [], "min_valid_mass": 0.5}
    ((rater, kind, clause),) = rater_faults(measures)
    assert (rater, kind) == ("a", "unusable")
    assert "58 % of its 120 ratings are unusable" in clause
    assert "a mean probability of 0.40, and ratings.min_valid_mass is 0.5" in clause


def test_missing_figures_are_listed_with_their_reasons(results):
    table = agreement_table(results, measures_by_round(results))
    assert all("–" not in row for row in table.rows)
    assert "set ratings.third_party" in table.note and "each item was rated once" in table.note
    note = bias_table(results, measures_by_round(results)).note
    assert "set ratings.perplexity" in note and "raise ratings.canary_share" in note
    assert note.count("set ratings.perplexity") == 1


def test_a_figure_without_an_interval_has_its_reason():
    few = {"value": 0.5, "interval": None, "n": 4, "topics": 2, "reason": "an interval needs 5 topics"}
    none = few | {"value": None, "reason": "no usable ratings"}
    whole = few | {"interval": [0, 1], "reason": None}
    assert reasons([("length", few), ("injection", none), ("order", few), ("plea", whole)]) == (
        "No interval: length, order (an interval needs 5 topics). "
        "Not measured: injection (no usable ratings)."
    )


def test_a_kind_of_canary_without_usable_copies_is_shown(results):
    row = {"rater": "judge", "kind": "plea", "value": None, "interval": None, "n": 0, "topics": 0}
    spoilt = row | {"reason": "no usable ratings", "unusable": 3}
    unmet = row | {"kind": "authority", "reason": "no usable ratings", "unusable": 0}
    table = canary_table(results, {"injection": [spoilt, unmet]})
    assert table.rows == [["judge", "plea", "–", "–", "0", "3"]]
    assert "plea, authority (no usable ratings)" in table.note


def test_third_party_raters_are_shown_by_name(results):
    row = next(r for r in rater_table(results, measures_by_round(results)).rows if r[0] == "judge")
    assert row[1:7] == ["third", "reply", "base models", "8", "25.0 %", "50.0 %"]
    titles = [figure.title for figure in section(results).blocks[0].figures]
    assert "Scores given by judge, base models' whole dialogues" in titles
