"""Known properties of made-up ratings are found in them, with n, interval and reasons."""

import json

import numpy as np
import pytest
from expertchat.ratings.anchors import check_anchors
from expertchat.ratings.artifact import (
    ANCHOR_CHECK,
    ANCHORS,
    RATER_ANCHOR_SCHEMA,
    RATING_SCHEMA,
    RATINGS,
    TEXT_SCHEMA,
    TEXTS,
    write_table,
)
from expertchat.records import without_nan, write_json
from expertchat.reliability.estimates import estimate
from expertchat.reliability.measures import measure
from expertchat.statistics import mean_of_sums, mean_terms

TOPICS, PER_TOPIC = 12, 6
WEIGHTS = {"x": 1.0, "y": 1.0}
SCALE = (0, 9)
FLOOR = 0.5  # smallest valid mass of a usable rating
NAMES = ("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "split")


def truth(item: int) -> float:
    """An item's true score: its topic's level, plus 1 per doubling of words."""
    return 3 + item % 3 + 0.5 * (item // PER_TOPIC % 3)


def write_ratings(
    folder,
    rater,
    *,
    relations=("partner", "self"),
    shift=0.0,
    vanity=0.0,
    noise=0.1,
    liking=None,
    sway=None,
    unusable=(),
    spoilt=(),
    single=(),
    seed=0,
):
    """The artifact of one rater on replies by a and b; a speaks first.

    `shift`: its leniency; `vanity`: points added to its own replies; `liking`: points added for the
    label A, in both orders; `sway`: points added by canaries. Items are `unusable` in all presentations,
    `spoilt` in all but the first, or presented in a `single` order.
    """
    generator = np.random.default_rng(seed)
    ratings, texts = [], []
    for item in range(TOPICS * PER_TOPIC):
        ratee = "ab"[item % 2]
        relation = "self" if ratee == rater else "partner" if rater in "ab" else "third"
        if relation not in relations:
            continue
        values = (rater, ratee, ratee, relation, "reply", f"i{item}", f"t{item // PER_TOPIC}", "train")
        named = dict(zip(NAMES, values, strict=True))
        score = truth(item) + shift + vanity * (relation == "self")
        presented = [(0, "", 0.0)]
        presented += [(1, "", 0.0)] if liking is not None and item not in single else []
        presented += [(0, "plea", sway)] if sway is not None and item % 4 == 0 else []
        for order, canary, more in presented:
            for category in WEIGHTS:
                usable = item not in unusable and (item not in spoilt or (order, canary) == (0, ""))
                label = "AB"[(ratee == "b") ^ order]
                row = {"order": order, "repeat": 0, "canary": canary, "category": category}
                row["label"] = label
                likes = (liking or 0.0) * (label == "A")
                row |= {"score": score + more + likes + noise * generator.normal()}
                row |= {"entropy": 0.5, "valid_mass": 0.8 if usable else 0.3}
                ratings.append(named | row)
        texts.append(named | {"words": 2 ** (item % 3 + 2), "bytes": 9, "bits_per_byte": None})
    folder.mkdir()
    write_table(folder / RATINGS, ratings, RATING_SCHEMA)
    write_table(folder / TEXTS, texts, TEXT_SCHEMA)
    write_table(folder / ANCHORS, [], RATER_ANCHOR_SCHEMA)
    write_json(folder / ANCHOR_CHECK, {"rater": rater, **check_anchors([])})
    return folder


def found_in(*folders) -> dict:
    found = without_nan(measure(folders, WEIGHTS, SCALE, 0, FLOOR))
    json.dumps(found, allow_nan=False)
    return found


def pick(rows, **equal) -> dict:
    (row,) = [r for r in rows if all(r[key] == value for key, value in equal.items())]
    return row


def holds(figure, value) -> bool:
    low, high = figure["interval"]
    return low <= value <= high and figure["topics"] == TOPICS


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """a overrates itself, and b is strict and gives 0.5 points more to the label A."""
    folder = tmp_path_factory.mktemp("pair")
    a = write_ratings(folder / "a", "a", vanity=1.5, sway=2.0, seed=1)
    b = write_ratings(folder / "b", "b", shift=-1.0, liking=0.5, sway=0.0, seed=2)
    return found_in(a, b)


def test_self_preference_is_separated_from_leniency(pair):
    a, b = (pick(pair["self_preference"], rater=n, category="overall") for n in "ab")
    assert holds(a, 1.5) and a["value"] == pytest.approx(1.5, abs=0.1)
    assert (a["own"], a["others"], a["n"]) == (36, 36, 72)
    # two raters alone have one figure together: a rating itself higher looks like b rating it lower
    assert a["together"] and b["together"] and b["value"] == pytest.approx(a["value"])


def test_a_third_party_shows_whose_self_preference_it_is(tmp_path):
    a = write_ratings(tmp_path / "a", "a", vanity=1.5, seed=1)
    b = write_ratings(tmp_path / "b", "b", shift=-1.0, seed=2)
    c = write_ratings(tmp_path / "c", "c", relations=("third",), seed=3)
    rows = found_in(a, b, c)["self_preference"]
    vain, strict, third = (pick(rows, rater=n, category="overall") for n in "abc")
    assert holds(vain, 1.5) and not vain["together"]
    assert abs(strict["value"]) < 0.1
    assert third["value"] is None and "its own text was not rated" in third["reason"]


def test_an_injection_effect_is_a_figure_with_an_interval(pair):
    swayed = pick(pair["injection"], rater="a", kind="any")
    assert holds(swayed, 2.0) and swayed["interval"][0] > 1.8 and swayed["n"] == 18
    assert swayed == pick(pair["injection"], rater="a", kind="plea") | {"kind": "any"}
    firm = pick(pair["injection"], rater="b", kind="any")
    assert abs(firm["value"]) < 0.2


def test_swapped_labels_are_compared_if_there_are_both(pair):
    b = pick(pair["order"], rater="b", category="overall")
    assert holds(b["change"], 0.5) and b["spearman"] > 0.8
    a = pick(pair["order"], rater="a", category="overall")
    assert a["change"]["value"] is None and "ratings.orders" in a["change"]["reason"]
    assert pick(pair["within_rater"], rater="b", category="x")["icc"]["value"] > 0.8
    once = pick(pair["within_rater"], rater="a", category="x")
    assert once["alpha"]["value"] is None and "each item was rated once" in once["alpha"]["reason"]


def test_a_speaker_whose_label_did_not_change_does_not_count(tmp_path):
    half = tuple(range(0, TOPICS * PER_TOPIC, 4))
    found = found_in(write_ratings(tmp_path / "a", "a", liking=2.0, single=half))
    assert pick(found["order"], category="overall")["change"]["n"] == 72 - 18
    assert pick(found["within_rater"], category="overall")["alpha"]["n"] == 72 - 18


def test_the_reason_everywhere_is_that_no_rating_is_usable(tmp_path):
    every = tuple(range(TOPICS * PER_TOPIC))
    found = found_in(write_ratings(tmp_path / "a", "a", liking=0.0, sway=0.0, unusable=every))
    assert pick(found["length"])["reason"] == "no usable ratings"
    for key in ("within_rater", "between_raters"):
        assert {r[f]["reason"] for r in found[key] for f in ("alpha", "icc")} == {"no usable ratings"}
    assert {r["change"]["reason"] for r in found["order"]} == {"no usable ratings"}
    for key in ("self_preference", "injection"):
        assert {r["reason"] for r in found[key]} == {"no usable ratings"}
    assert "ratings.perplexity" in pick(found["perplexity"])["reason"]


def test_an_unusable_copy_counts_if_the_clean_item_is_usable(tmp_path):
    folder = write_ratings(tmp_path / "a", "a", sway=1.0, unusable=(0, 4), spoilt=(8, 12, 16))
    row = pick(found_in(folder)["injection"], kind="any")
    assert (row["n"], row["unusable"]) == (18 - 5, 3)


def test_length_leaves_out_items_with_an_unusable_presentation(tmp_path):
    found = found_in(
        write_ratings(tmp_path / "b", "b", liking=0.0, relations=("partner",), spoilt=(0, 2))
    )
    assert pick(found["length"])["n"] == 36 - 2
    assert pick(found["order"], category="overall")["change"]["n"] == 36 - 2


def test_one_rater_per_item_gives_no_agreement_but_a_reason(pair, tmp_path):
    row = pick(pair["between_raters"], category="overall", raters="others", model=None)
    assert row["alpha"]["value"] is None and "third_party" in row["alpha"]["reason"]
    counted = pick(pair["between_raters"], category="overall", raters="all", model=None)
    assert counted["alpha"]["n"] == 72 and counted["k"] == 2
    alone = found_in(write_ratings(tmp_path / "a", "a", relations=("partner",)))
    assert {r["raters"] for r in alone["between_raters"]} == {"others"}
    (row,) = [r for r in alone["self_preference"] if r["category"] == "overall"]
    assert row["value"] is None and "ratings.self_rating" in row["reason"]
    assert pick(alone["injection"], kind="any")["reason"].endswith("raise ratings.canary_share")


def test_raters_that_see_the_same_agree_and_strict_ones_less(tmp_path):
    partners = [
        write_ratings(tmp_path / n, n, relations=("partner",), seed=k) for k, n in enumerate("ab")
    ]
    kind, strict = (
        write_ratings(tmp_path / n, n, relations=("third",), shift=s, seed=9)
        for n, s in (("c", 0.0), ("d", -3.0))
    )
    near = pick(found_in(*partners, kind)["between_raters"], category="overall", model="a")
    far = pick(found_in(*partners, strict)["between_raters"], category="overall", model="a")
    assert near["k"] == far["k"] == 2
    assert near["alpha"]["value"] > 0.9 > 0 > far["alpha"]["value"]
    assert near["icc"]["value"] > 0.9 > far["icc"]["value"]
    assert near["alpha"]["interval"][0] > 0.8


def test_points_per_doubling_of_words_within_topics(pair):
    row = pick(pair["length"], rater="a", scope="reply")
    assert row["value"] == pytest.approx(1, abs=0.1) and row["n"] == 36
    row = pick(pair["perplexity"], rater="a", scope="reply")
    assert row["value"] is None and "ratings.perplexity" in row["reason"]


def test_unusable_ratings_are_counted_and_left_out(tmp_path):
    folder = write_ratings(tmp_path / "a", "a", sway=1.0, unusable=(1, 3), relations=("partner",))
    found = found_in(folder)
    (row,) = found["raters"]
    assert (row["ratings"], row["unusable"]) == (72, 4)
    assert row["valid_mass"] == pytest.approx((68 * 0.8 + 4 * 0.3) / 72) and row["bits_per_byte"] is None
    counts = pick(found["histograms"], category="x")
    assert sum(counts["counts"]) == counts["n"] == 34


def test_few_topics_give_a_value_without_an_interval():
    terms, topics = mean_terms(np.array([1.0, 2.0, 3.0, 4.0])), ["s", "t", "u", "v"]
    few = estimate(terms, topics, mean_of_sums, seed=0)
    assert few["value"] == 2.5 and few["interval"] is None and few["topics"] == 4
    assert "an interval needs 5 topics" in few["reason"]
    enough = estimate(mean_terms(np.arange(5.0)), list("stuvw"), mean_of_sums, seed=0)
    assert enough["interval"][0] < 2 < enough["interval"][1] and enough["reason"] is None


def test_anchors_that_every_shard_rated_count_once(tmp_path):
    shards = [write_ratings(tmp_path / n, "a", relations=("partner",)) for n in "st"]
    rows = [
        {"rater": "a", "anchor_id": str(i), "category": "x", "score": float(i), "entropy": 0.5}
        | {"topic": "t", "quality": "", "valid_mass": 0.9}
        for i in range(3)
    ]
    for shard in shards:
        write_table(shard / ANCHORS, rows, RATER_ANCHOR_SCHEMA)
    assert measure(shards, WEIGHTS, SCALE, 0, FLOOR)["anchors"] == [
        {"rater": "a", "category": "x", "mean": 1.0, "deviation": 1.0, "n": 3}
    ]


def test_scores_are_counted_in_equal_bins_over_the_scale(tmp_path):
    found = found_in(write_ratings(tmp_path / "a", "a", noise=0.0, relations=("partner",)))
    counts = pick(found["histograms"], category="x")["counts"]
    edges = np.linspace(0, 9, 21)
    expected = np.histogram([truth(i) for i in range(72) if i % 2], edges)[0]
    assert counts == expected.tolist()
