"""summary.json: values worked out by hand, and the documented schema."""

import json
import re

import pandas as pd
import pytest
from expertchat.policies.artifact import UNSUPPORTED
from expertchat.policies.outcome import keep_policy
from expertchat.report.summary import ends, rating_change, summarise, verdict, with_interval, without_nan
from expertchat.report.summary_mmlu import mixture_verdict
from expertchat.report.terminal import answer_lines
from expertchat.results import ExperimentResults
from expertchat.statistics import wilson_interval
from small_experiment import ROOT, asking_config, small_config, write_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("store"), small_config())


@pytest.fixture(scope="module")
def summary(experiment):
    return summarise(experiment)


def test_ratings_before_and_after(summary):
    row = summary["rows"][0]
    assert row["rating_before"] == pytest.approx(5)  # 4 and 6
    assert row["rating_before_interval"] == pytest.approx(
        [4, 6]
    )  # two topics: either may be drawn twice
    assert row["rating_after"] == pytest.approx(6)
    assert row["rating_change"] == pytest.approx(1)
    assert row["rating_change_interval"] == pytest.approx([1, 1])  # the same on either topic
    assert row["rating_usable_before"] == 1


def leave_untuned(run, model, round=None):
    """Rewrites a policy of the experiment as stage policies leaves it if the scale is 0."""
    for artifact in run.find("policies", round, model):
        for path in artifact.folder.glob("*.*"):
            if path.name != "manifest.json":
                path.unlink()
        keep_policy(None, UNSUPPORTED, artifact.folder)


def test_an_untuned_model_is_said_to_be_untuned_and_why(tmp_path):
    run = write_experiment(tmp_path, small_config(rounds=2))
    leave_untuned(run, "llama")
    leave_untuned(run, "mixtral", round=2)
    found = summarise(run)
    assert [row["tuned"] for row in found["rows"]] == [False, True, False, False]
    first = found["rows"][0]
    assert first["ppo_score_first"] is first["ppo_score_last"] is first["ppo_kl_last"] is None
    llama, mixtral = found["verdict"][:2]
    assert llama.startswith(
        "llama: not tuned: the reward model's scale is 0, as its scores do not predict which reply "
        "is better on topics it was not trained on, so that all changes are chance: the model is the "
        "same before and after; its rating by the other model went from"
    )
    assert "its MMLU accuracy is the same, as the model is" in llama
    assert "MMLU accuracy" in mixtral and "as the model is" not in mixtral
    assert mixtral.startswith("mixtral: not tuned in round 2: the reward model's scale is 0")
    assert len(run.ppo_steps("mixtral")) == 20 and run.ppo_steps("llama").empty


def test_mmlu_change_is_paired_and_clustered_by_subject(summary):
    row = summary["rows"][0]
    assert (row["mmlu_all_before"], row["mmlu_all_after"]) == (4 / 8, 5 / 8)
    assert row["mmlu_all_change"] == 1 / 8
    assert row["mmlu_all_change_interval"] == [0, 1 / 4]  # carpentry alone 0, sailing alone 1 of 4
    assert (row["mmlu_all_questions"], row["mmlu_all_subjects"]) == (8, 2)


def test_headline_mmlu_is_over_the_subjects_taught(summary):
    llama, mixtral = summary["rows"]  # llama was taught carpentry, mixtral sailing
    assert (llama["mmlu_before"], llama["mmlu_after"], llama["mmlu_subjects"]) == (0.5, 0.5, 1)
    assert (mixtral["mmlu_before"], mixtral["mmlu_after"]) == (0.5, 0.75)
    assert mixtral["mmlu_change_interval"][1] > 0.25  # one subject: drawn by question


def test_mixture_is_compared_with_its_better_member(summary):
    base = summary["mixture"][0]
    assert base["uniform"] == 0.5
    assert base["members"] == {"llama": 0.5, "mixtral": 0.5}
    assert base["uniform_over_best"] == 0
    assert base["uniform_over_best_interval"] == [-0.5, 0.5]


def test_every_model_has_its_accuracy_in_every_round(summary):
    rows = summary["mmlu"]
    assert [(row["round"], row["model"]) for row in rows] == [
        (0, "llama"),
        (0, "mixtral"),
        (1, "llama"),
        (1, "mixtral"),
    ]
    assert [row["accuracy"] for row in rows] == [0.5, 0.5, 5 / 8, 5 / 8]
    # the same accuracy in both subjects, so all resamples are equal
    assert rows[0]["interval"] == list(wilson_interval(4, 8))
    assert rows[0]["always"] == 0.25 and rows[0]["mass"] == pytest.approx(0.9)
    # llama knows the answers A and B, and gives other letters for C and D in both subjects
    assert sum(rows[0]["letters"].values()) == 1


def test_the_mixture_is_chosen_and_its_reference_too_by_val(summary):
    base = summary["mixture"][0]
    assert (base["val_questions"], base["val_left_out"]) == (9, 1)
    methods = {method["method"]: method for method in base["methods"]}
    # of the nine val questions llama knows three of five in sailing and two of four in carpentry
    assert methods["model/llama"]["val_accuracy"] == pytest.approx(5 / 9)
    assert methods["model/mixtral"]["val_accuracy"] == pytest.approx(4 / 9)
    assert base["best_single"] == "llama"
    assert methods["best_single"]["over_best_single"] == 0 and methods["best_single"]["p"] == 1
    # every model knows the same half of carpentry; together they know all of sailing
    assert methods["oracle"]["accuracy"] == 0.75 and methods["oracle"]["over_best_single"] == 0.25
    fitted = [m for m in base["methods"] if m["kind"] == "fitted"]
    assert methods[base["chosen_fitted"]]["val_accuracy"] == max(m["val_accuracy"] for m in fitted)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Three models that only answer questions, with published accuracies."""
    config = asking_config()
    config["mmlu"] = config["mmlu"] | {"published": {"a": 47.14, "uniform": 40.51}}
    return summarise(write_experiment(tmp_path_factory.mktemp("asked"), config))


def test_models_that_only_answer_questions(asked):
    assert asked["topics"] is None and asked["rows"] == [] and asked["rounds"] == 0
    assert asked["verdict"][0] == (
        "a answers 50.0 % of 8 questions correctly (95 % interval 21.5 to 78.5 %)."
    )
    (mixed,) = asked["mixture"]
    assert len(asked["verdict"]) == 4 + (mixed["chosen"] != mixed["chosen_fitted"])
    assert asked["verdict"][3].startswith("The fitted mixture that is best on val, ")
    assert f"over {mixed['best_single']}, the best single model on val" in asked["verdict"][3]


def test_published_figures_are_shares_beside_ours(asked):
    assert [row["published"] for row in asked["mmlu"]] == [pytest.approx(0.4714), None, None]
    methods = {method["method"]: method["published"] for method in asked["mixture"][0]["methods"]}
    assert methods["uniform"] == pytest.approx(0.4051) and methods["model/a"] == pytest.approx(0.4714)
    assert methods["stacking"] is None


def test_show_prints_ours_beside_the_published(asked):
    lines = answer_lines(asked, {"a": 47.14, "uniform": 40.51, "other": 1.0})
    assert lines[1].split()[-1] == "published"
    assert [line.split()[-1] for line in lines if line.startswith("a ")] == ["47.14"]
    assert [line.split()[-1] for line in lines if line.startswith("uniform  ")] == ["40.51"]
    assert sum("(*)" in line for line in lines) == 2  # the method, and what the mark means
    assert lines[-1] == "Published but not measured here: other 1.00 %."
    assert "published" not in " ".join(answer_lines(asked, {}))


def test_shards_make_no_difference(tmp_path, asked):
    config = asking_config()
    config["mmlu"] = config["mmlu"] | {"shards": 2, "mixture": False}
    found = summarise(write_experiment(tmp_path, config))["mmlu"]
    assert [row | {"published": None} for row in asked["mmlu"]] == found


def method_row(name, kind="fitted", gain=0.1, interval=(0.05, 0.15)):
    row = {"method": name, "title": name, "kind": kind, "accuracy": 0.5 + gain}
    return row | {"over_best_single": gain, "over_best_single_interval": list(interval)}


@pytest.mark.parametrize(
    ("chosen", "row", "words"),
    [
        ("gate", method_row("gate"), "+10.0 points (95 % interval +5.0 to +15.0) over a"),
        (
            "gate",
            method_row("gate", gain=0.01, interval=(-0.1, 0.1)),
            "on val; the difference is not significant",
        ),
        ("best_single", method_row("gate"), "On val, no mixture is better than a alone."),
        ("uniform", method_row("gate"), "The method that is best on val is “uniform”, answers 60.0 %"),
    ],
)
def test_the_verdict_on_mixtures_says_what_val_chose(chosen, row, words):
    methods = [row, method_row("uniform", "fixed"), method_row("oracle", "oracle")]
    found = {"chosen": chosen, "chosen_fitted": "gate", "best_single": "a", "methods": methods}
    assert words in " ".join(mixture_verdict([found]))


@pytest.mark.slow
def test_models_that_talk_need_not_answer_questions(tmp_path):
    summary = summarise(write_experiment(tmp_path, small_config(mmlu=None)))
    assert summary["mmlu"] == [] and summary["mixture"] == []
    assert all(row["mmlu_change"] is None and row["mmlu_all_p"] is None for row in summary["rows"])
    assert "MMLU was not measured" in summary["verdict"][0]


def test_ppo_ends_are_tenths(summary):
    assert summary["rows"][0]["ppo_score_first"] == 0.5
    assert summary["rows"][0]["ppo_score_last"] == 18.5
    assert ends(pd.Series([3.0])) == (3.0, 3.0)


def test_topics_and_costs_are_counted(summary, experiment):
    counts = {"kept": {"train": 2, "held_out": 2}, "rejected": {"duplicate": 1}}
    diversity = summary["topics"]["diversity"]
    assert summary["topics"] == {**counts, "diversity": diversity}
    # two words per topic, each in one other topic: 4 of 8 words and 4 of 4 pairs are unique; BLEU is
    # the root of the precisions of words, 2/2, and of pairs, smoothed to 1/2
    measures = {"distinct_1": 0.5, "distinct_2": 1, "self_bleu": 0.5**0.5, "nearest_rouge_l": 0.5}
    assert diversity == pytest.approx(measures)
    assert summary["seconds"]["ratings"] == 4 * 2.5  # two raters, before and after
    assert summary["peak_memory_bytes"]["ratings"] == 2**20


def test_what_is_not_a_number_becomes_null(summary):
    assert summary["rows"][0]["rating_oracle_spearman"] is None
    json.dumps(summary, allow_nan=False)
    assert without_nan({"a": [float("inf"), 1.5]}) == {"a": [None, 1.5]}


def test_an_empty_measure_is_null():
    assert with_interval("x", [], []) == {"x": None, "x_interval": None}


@pytest.mark.slow
def test_unusable_ratings_are_left_out(tmp_path):
    run = write_experiment(tmp_path, small_config())
    path = run.folder("ratings", 1, "llama") / "ratings.parquet"  # by llama, so of mixtral
    table = pd.read_parquet(path)
    table.loc[table["item_id"] == "sailing-01/s0", "valid_mass"] = 0.4  # below the floor
    table.to_parquet(path)
    row = summarise(run)["rows"][1]
    assert row["rating_before"] == pytest.approx(4)
    assert row["rating_usable_before"] == 0.5
    table.assign(valid_mass=0.4).to_parquet(path)
    row = summarise(run)["rows"][1]
    assert row["rating_before"] is None and row["rating_change"] is None


@pytest.mark.slow
def test_rounds_give_a_row_each(tmp_path):
    summary = summarise(write_experiment(tmp_path, small_config(rounds=2)))
    assert [(r["round"], r["model"]) for r in summary["rows"]] == [
        (1, "llama"),
        (1, "mixtral"),
        (2, "llama"),
        (2, "mixtral"),
    ]
    assert summary["rows"][2]["rating_before"] == pytest.approx(6)
    assert summary["rows"][2]["rating_change"] == pytest.approx(1)
    assert summary["rows"][2]["rating_change_from_base_interval"] == pytest.approx([2, 2])
    words = "from 5.00 to 7.00 (95 % interval of the change +2.00 to +2.00)"
    assert words in summary["verdict"][0]  # from the base to the last round
    assert [row["round"] for row in summary["mixture"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.51, 0.9], "better than base"),
        ([0.5, 0.9], "no significant difference from base"),
        ([0.1, 0.49], "worse than base"),
    ],
)
def test_the_verdict_follows_the_interval(summary, interval, words):
    rows = [row | {"oracle_win_rate_interval": interval} for row in summary["rows"]]
    assert all(words in sentence for sentence in verdict(rows, "none"))


def test_the_verdict_mentions_a_control_and_a_missing_oracle(summary):
    rows = [{k: v for k, v in row.items() if "oracle" not in k} for row in summary["rows"]]
    sentences = verdict(rows, "shuffled")
    assert "There is no oracle" in sentences[-2]
    assert "control run" in sentences[-1]


JUDGED = {  # keys of judgements
    *("judge", "first`, `second", "pairs", "win_rate", "win_rate_interval", "ties", "longer_wins"),
    *("first_tokens`, `second_tokens", "held_out", "mass", "consistent", "first_place"),
}


def test_every_key_is_documented(summary):
    page = (ROOT / "docs/summary.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE))
    parts = [summary, *(summary[part][0] for part in ("rows", "mmlu", "mixture"))]
    keys = {key for part in [*parts, summary["mixture"][0]["methods"][0]] for key in part}
    assert keys <= documented
    optional = {"cautions", "reply_rating_oracle_spearman", "replies", "oracle_change_interval"}
    optional |= {"turns", "flags", "raters", "rater", "items", "usable", "valid_mass"}  # transcripts
    optional |= {"rating", "rating_interval"}
    optional |= JUDGED
    text = page.split("## `speeds`")[1]
    optional |= set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))  # test_speeds_report
    assert documented <= keys | optional


def test_each_seat_of_a_model_that_talks_with_itself_is_compared_with_itself(tmp_path):
    settings = {"rounds": 1, "models": ["a"], "weights": {"c": 1.0}, "min_valid_mass": 0.5}
    places = {f"round-{round}/ratings/a": f"ratings/{round:012d}" for round in (1, 2)}
    run = ExperimentResults(tmp_path, places, settings)
    for moment in range(2):  # every seat rises by 1; one rating before is unusable
        rows = []
        for number in range(6):
            for seat, score in (("a-1", 2.0), ("a-2", 6.0)):
                row = {"rater": "a", "ratee": seat, "model": "a", "relation": "partner", "canary": ""}
                row |= {"scope": "dialogue", "item_id": f"d{number}", "topic_id": f"t{number}"}
                row |= {"split": "held_out", "category": "c", "label": "A", "order": 0, "repeat": 0}
                usable = moment == 1 or (number, seat) != (0, "a-2")
                rows.append(row | {"score": score + moment, "valid_mass": 0.9 if usable else 0.1})
        folder = run.all_artifacts[moment].folder
        folder.mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / "ratings.parquet")
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
    found = rating_change(run, 1, "a")
    assert found["rating_change"] == 1.0 and found["rating_change_interval"] == [1.0, 1.0]
