"""An experiment that only rates transcripts, run as a user runs it: files, command, report."""

import json

import expertchat
import pytest
from conftest import ROOT, save_random_model
from expertchat.cli import main
from expertchat.report.summary_transcripts import transcript_verdict
from small_workflow import snakemake, write_config

pytestmark = pytest.mark.slow

TALKS = {
    "flour.txt": "Topic: Do bakers need scales?\n\nAnna: I weigh all of it.\nBen: <b>Not</b> at home.\n",
    "boats.txt": "User: When do you set a storm jib?\nAssistant: As an AI, I never sail.\n",
    "bees.json": json.dumps({"topic": "bees", "model": "Ben", "messages": [
        {"role": "user", "content": "Feed them?"}, {"role": "assistant", "content": "In autumn."}
    ]}),
}  # fmt: skip
RUBRIC = """
low: 1
high: 3
categories:
  - {name: clarity, description: clear}
  - {name: depth, description: deep, weight: 3}
"""


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """The finished experiment: two raters with random weights, three conversations."""
    folder = tmp_path_factory.mktemp("transcripts")
    (folder / "talks").mkdir()
    for name, text in TALKS.items():
        (folder / "talks" / name).write_text(text, encoding="utf-8")
    (folder / "rubric.yaml").write_text(RUBRIC, encoding="utf-8")
    model = save_random_model("llama", tokenizer, folder / "model")
    settings = {
        "name": "mine",
        "rounds": 0,
        "models": {name: {"source": "path", "path": str(model)} for name in ("judge", "other")},
        "dialogues": {"transcripts": str(folder / "talks")},
        "ratings": {"rubric": str(folder / "rubric.yaml"), "min_valid_mass": 0.0, "canary_share": 0.5},
    }
    write_config(folder, settings)
    snakemake(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return expertchat.open_experiment("mine", folder / "results")


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "results/experiments/mine/report/report.html").read_text(encoding="utf-8")


def test_the_tables_have_the_turns_with_flags_and_the_ratings_of_all_models(run):
    turns = run.turns()
    assert turns["dialogue_id"].nunique() == 3 and len(turns) == 6
    flagged = turns[turns["flags"].map(bool)]
    assert flagged["text"].tolist() == ["As an AI, I never sail."]
    ratings = run.overall_ratings()
    assert len(ratings) == 6 and ratings["usable"].all()
    by_rater = run.ratings().groupby("rater", observed=True).size()
    assert by_rater.to_dict() == {"judge": 12, "other": 12}
    assert len(run.ratings(controls=True)) > 24  # with canaries


def test_the_summary_has_the_mean_of_each_rater(run):
    summary = run.summary()
    given = summary["transcripts"]
    assert (given["dialogues"], given["turns"], given["flags"]["persona_break"]) == (3, 6, 1)
    judge, other = given["raters"]
    assert (judge["rater"], judge["items"], judge["usable"]) == ("judge", 6, 1.0)
    ratings = run.ratings(columns=["rater", "category", "score"])
    own = ratings[ratings["rater"] == "judge"].groupby("category", observed=True)["score"].mean()
    assert judge["rating"] == pytest.approx(0.25 * own["clarity"] + 0.75 * own["depth"])
    assert judge["rating"] == pytest.approx(other["rating"])  # the same weights
    low, high = judge["rating_interval"]
    assert low <= judge["rating"] <= high
    assert [c for c in summary["cautions"] if c.startswith("judge and other, each: it is a blind rater")]
    assert summary["rows"] == summary["mmlu"] == [] and summary["topics"] is None


def test_the_report_shows_dialogues_with_flags_ratings_and_reliability(html):
    for section in ("dialogues", "ratings", "reliability", "cost", "provenance"):
        assert f'<section id="{section}">' in html
    for section in ("topics", "rewards", "policies", "replies", "mmlu", "mixture"):
        assert f'<section id="{section}">' not in html
    assert "3 transcripts" in html and "Do bakers need scales?" in html
    assert '<span class="mark">persona break</span>' in html
    assert "&lt;b&gt;Not&lt;/b&gt; at home." in html and "<b>Not" not in html
    assert "by judge" in html and "by other" in html


def test_the_report_speaks_of_transcripts(html):
    """Not of what an experiment has that talks or tunes."""
    body = html.split("</style>")[1].split('id="provenance"')[0].lower()
    for word in ("candidate", "partner", "pairs", "base model", "tuning", "after round", "held-out"):
        place = body.find(word)
        assert place < 0, f"{word}: …{body[max(0, place - 120) : place + 60]}…"


def test_show_prints_the_ratings_and_the_place_of_the_report(folder, capsys, monkeypatch):
    arguments = ["show", "--configfile", str(folder / "config.yaml")]
    store = str(folder / "results")
    monkeypatch.setattr("sys.argv", ["expertchat", *arguments, "--store", store])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = capsys.readouterr().out
    assert shown.startswith("judge: its overall ratings are ") and "scale from 1 to 3" in shown
    assert "3 transcripts were rated; no model talked or was tuned." in shown
    assert f"{store}/experiments/mine/report/report.html" in shown


def test_unusable_ratings_are_said_in_the_verdict():
    row = {"rater": "judge", "rating": None, "rating_interval": None, "usable": 0.0}
    figures = {"dialogues": 1, "raters": [row]}
    assert transcript_verdict(figures, (1, 9)) == [
        "judge: none of its overall ratings is usable.",
        "One transcript was rated; no model talked or was tuned.",
    ]
    row |= {"rating": 5.0, "rating_interval": [4.0, 6.0], "usable": 0.25}
    assert transcript_verdict(figures, (1, 9))[0] == (
        "judge: its overall ratings are 5.00 on average, on a scale from 1 to 9 (95 % interval 4.00 to "
        "6.00); 25 % of them are usable."
    )


def test_every_key_of_transcripts_is_documented(run):
    page = (ROOT / "docs/summary.md").read_text(encoding="utf-8")
    given = run.summary()["transcripts"]
    for key in (*given, *given["raters"][0]):
        assert f"\n| `{key}` |" in page, key
