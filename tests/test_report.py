"""report.html: complete, self-contained, and safe whatever text a model wrote."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from expertchat.mmlu.categories import HARNESS
from expertchat.policies.artifact import UNSUPPORTED
from expertchat.policies.outcome import keep_policy
from expertchat.report.cautions import answer_cautions
from expertchat.report.mmlu import harness_words
from expertchat.report.page import write_report
from expertchat.report.plots import MODELS, plot
from expertchat.report.policies import thinned
from expertchat.report.results import Results, spread
from expertchat.report.rewards import calibration_bins
from expertchat.report.summary import summarise
from expertchat.report.wording import interval, memory, number, p_value, percent, seconds, visible
from expertchat.results import ExperimentResults
from small_experiment import SUBJECTS, asking_config, small_config, write_experiment

pytestmark = pytest.mark.slow

STAGES = ("topics", "dialogues", "ratings", "reliability")
STAGES += ("rewards", "policies", "replies", "mmlu", "mixture", "oracle")


HOSTILE = "<script>alert(1)</script>{{7*7}}{% raw %}</section><!-- & \"' a\u202eb\x00c\x1b[31md"


def page(folder, said="I cut the rope at noon.", change=lambda run: None, **changes) -> str:
    """The page of a small experiment; `change` may alter its files, or leave out stages."""
    run = write_experiment(folder / "store", small_config(**changes), said)
    change(run)
    return written(folder, run)


def written(folder, run) -> str:
    write_report(summarise(run), run, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def asked_page(folder, subjects=SUBJECTS, mixture=True, **changes) -> str:
    """The page of an experiment whose models only answer questions."""
    config = asking_config(**changes)
    config["mmlu"] = config["mmlu"] | {"mixture": mixture}
    return written(folder, write_experiment(folder / "store", config, subjects=subjects))


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    return page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    """A page with model names and texts that try to inject markup."""
    return page(tmp_path_factory.mktemp("hostile"), HOSTILE, names=("a<b>$x^2$", "<svg >&"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> str:
    """A page without oracle, without scores of pairs, and without usable ratings after tuning."""

    def change(run):
        for artifact in run.find("rewards"):
            folder = artifact.folder
            pairs = pd.read_parquet(folder / "pairs.parquet").drop(columns="chosen_score")
            pairs.to_parquet(folder / "pairs.parquet")
        for artifact in run.find("ratings", round=2):
            folder = artifact.folder
            ratings = pd.read_parquet(folder / "ratings.parquet").assign(valid_mass=0.4)
            ratings.to_parquet(folder / "ratings.parquet")
        run.all_artifacts = [a for a in run.all_artifacts if a.stage != "oracle"]

    return page(tmp_path_factory.mktemp("bare"), change=change)


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> str:
    """Two rounds of a control run whose rated items were stored."""

    def change(run):
        items = pd.DataFrame({"oracle": [0.1, 0.9], "overall": [2.0, 8.0], "round": 1, "scope": "reply"})
        items.assign(rater="llama").to_parquet(run.folder("oracle") / "items.parquet")

    return page(tmp_path_factory.mktemp("several"), change=change, rounds=2, control="shuffled")


def test_untuned_models_have_no_curves_but_a_reason(tmp_path):
    def untuned(*models):
        def change(run):
            for model in models:
                for artifact in run.find("policies", None, model):
                    keep_policy(None, UNSUPPORTED, artifact.folder)

        return change

    one = page(tmp_path / "one", change=untuned("llama"))
    assert "Not tuned: llama. For each, the reward model" in one and "PPO tuned each" in one
    neither = page(tmp_path / "neither", change=untuned("llama", "mixtral"))
    assert "No model was tuned: the reward model" in neither and "PPO tuned each" not in neither
    assert section_names(neither) == section_names(one)
    rounds = page(tmp_path / "rounds", change=untuned("llama"), rounds=2)
    assert "Not tuned: llama, round 1; llama, round 2." in rounds


class Elements(HTMLParser):
    """Collects start tags with their attributes, and checks that tags close in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, html: str):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def section_names(html: str) -> list[str]:
    return [attributes["id"] for tag, attributes in Elements(html).found if tag == "section"]


def test_every_stage_has_its_section(html, bare):
    assert section_names(html) == ["verdict", *STAGES, "cost", "provenance"]
    assert section_names(bare) == section_names(html)


def test_tags_close_and_ids_are_unique(html):
    elements = Elements(html)
    assert elements.open == []
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_page_refers_to_no_other_file(html):
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    tags = {tag for tag, _ in Elements(html).found}
    assert not tags & {"script", "link", "img", "iframe"}
    for tag, attributes in Elements(html).found:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)


def test_headline_figures_are_on_the_page(html):
    assert "80 %" in html and "70 to 90 %" in html  # win rate and its interval
    assert "5.00" in html and "6.00" in html  # ratings before and after
    assert "MMLU accuracy, taught subjects" in html


def test_equal_results_give_equal_pages(tmp_path, html):
    assert page(tmp_path) == html


def test_a_fallen_mark_is_pointed_out(html):
    assert "fell from 0.60 to 0.20" in html


def test_text_by_models_is_escaped(hostile):
    assert "<script" not in hostile
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt;{{7*7}}{% raw %}&lt;/section&gt;&lt;!-- &amp; " in hostile
    )
    assert Elements(hostile).open == []


def test_invisible_characters_are_shown_as_code_points(hostile):
    assert "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩[31md" in hostile
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", hostile)
    assert visible("\ud800") == "⟨U+D800⟩"
    assert visible("Grüße, 你好, مرحبا\n") == "Grüße, 你好, مرحبا\n"


def test_names_are_escaped_in_drawings_too(hostile):
    assert "<b>" not in hostile
    drawings = "".join(re.findall(r"<svg.*?</svg>", hostile, flags=re.DOTALL))
    assert "a&lt;b&gt;$x^2$" in drawings and "&lt;svg &gt;&amp;" in drawings


def test_labels_in_drawings_are_escaped():
    svg = plot("x", 1, lambda ax: ax.set_title("<script>\u202e$\\frac$"))
    assert "<script" not in svg and "&lt;script&gt;⟨U+202E⟩$\\frac$" in svg


def test_drawings_follow_the_theme():
    svg = plot("x", 1, lambda ax: ax.plot([0, 1], color=MODELS[1]))
    assert "var(--model-1)" in svg and "#0" not in svg.replace("#000000", "")
    assert svg == plot("x", 1, lambda ax: ax.plot([0, 1], color=MODELS[1]))


def test_a_missing_oracle_is_reported(bare, html):
    assert "no demo world" in bare and "Oracle win rate over base" not in bare
    assert "Oracle marks" in html and "Oracle marks" not in bare


def test_unusable_ratings_are_reported(bare, html):
    words = "up to 100 % of its ratings on held-out dialogues are unusable"
    assert words in bare and words not in html


def test_a_control_carries_a_banner(several, html):
    assert 'class="banner"' in several
    assert 'class="banner"' not in html


def test_several_rounds_get_curves(several, html):
    assert section_names(several)[:2] == ["verdict", "rounds"]
    assert "llama, round 2" in several
    assert "start of a round" in several and "start of a round" not in html


def test_machine_names_stay_out(html):
    assert "secret" not in html


def test_calibration_is_plotted_if_scores_were_stored(html, bare):
    title = "Calibration on held-out pairs"
    assert title in html and title not in bare


def test_rated_items_are_plotted_if_they_were_stored(several, html):
    title = "Ratings by llama of candidate replies against the oracle&#39;s scores"
    assert title in several and title not in html


def test_spread_takes_items_at_equal_intervals():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread(range(9), 1) == [0]


def test_calibration_bins_by_confidence():
    pairs = pd.DataFrame({"chosen_score": [0.1, -0.1, 9.0], "rejected_score": [0.0, 0.0, 0.0]})
    bins = calibration_bins(pairs)
    assert list(bins["accuracy"]) == [0.5, 1.0]
    assert list(bins["count"]) == [2, 1]
    assert bins["confidence"].iloc[0] == pytest.approx(0.525, abs=1e-3)


def test_long_curves_are_thinned_within_rounds():
    steps = pd.DataFrame({"round": [0] * 500 + [1] * 500, "step": range(1000), "score": 1.0})
    thin = thinned(steps)
    assert len(thin) <= 302 and set(thin["round"]) == {0, 1}


def test_wording():
    assert number(-1.25, 1) == "−1.2" and number(None) == "–" and number(-0.001, 1, sign=True) == "0.0"
    assert number(1234.5, 1, sign=True) == "+1,234.5"
    assert percent(0.5) == "50 %" and percent(None) == "–"
    assert interval([0.1, 0.25], 0, 100) == "10 to 25" and interval(None) == "–"
    assert (seconds(3.14), seconds(42), seconds(600), seconds(36000)) == (
        "3.1 s",
        "42 s",
        "10.0 min",
        "10.0 h",
    )
    assert (memory(5 * 2**20), memory(3 * 2**30)) == ("5 MiB", "3.0 GiB")


def test_without_rounds_there_is_one_side_and_no_section_on_tuning(tmp_path):
    html = page(tmp_path, rounds=0)
    names = section_names(html)
    assert {"dialogues", "ratings", "reliability", "mmlu"} <= set(names)
    assert not {"rewards", "policies", "replies", "oracle"} & set(names)
    assert "No model was tuned" in html and "Before:" not in html
    assert "Mixture: " in html, "models that were not tuned are still measured"


def test_models_that_only_answer_questions_have_a_page_of_their_own(tmp_path):
    html = asked_page(tmp_path)
    assert section_names(html) == ["verdict", "mmlu", "mixture", "cost", "provenance"]
    assert Elements(html).open == [] and "8 questions ·" in html
    assert "No model was tuned" not in html and 'class="arrow"' not in html
    for words in (
        "Accuracy by number of models",
        "Weights of the models in the mixtures",
        "★",
        "oracle",
    ):
        assert words in html
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    ids = re.findall(r'id="([^"]+)"', "".join(drawings))
    assert len(ids) == len(set(ids))


def test_one_model_is_a_page_too(tmp_path):
    html = asked_page(tmp_path, names=("one",))
    assert section_names(html) == ["verdict", "mmlu", "cost", "provenance"]
    assert Elements(html).open == [] and "None of these questions is from MMLU" in html


def test_all_of_mmlu_is_by_category_and_a_ninth_model_shares_its_colour(tmp_path):
    names = [f"model {number}" for number in range(9)]
    html = asked_page(tmp_path, tuple(HARNESS), mixture=False, names=names)
    assert (
        Elements(html).open == []
        and "Accuracy by category" in html
        and "Differences between models" in html
    )
    for words in ("STEM", "social sciences", "Accuracy by subject: STEM and other", "HS biology"):
        assert words in html
    assert all(f'class="dot dot-{place}"' in html for place in range(8))
    assert "repeat after 8 models" in html
    assert "These figures equal acc_norm of lm-evaluation-harness 0.4.13" in html


def test_demo_models_need_not_be_asked_about_taught_subjects(tmp_path):
    run = write_experiment(tmp_path / "store", small_config(), subjects=("anatomy", "law"))
    summary = summarise(run)
    assert summary["rows"][0]["mmlu_subjects"] == summary["rows"][0]["mmlu_all_subjects"] == 2
    assert "MMLU accuracy, taught subjects" not in written(tmp_path, run)


def test_tuning_is_shown_paired_with_its_test(html):
    assert "Change of accuracy by tuning" in html and "exact McNemar test" in html
    assert "Changes by subject" in html and "adjusted p" in html


def with_formulation(formulation: str) -> Results:
    """Results of an experiment that has nothing but this setting."""
    settings = {"experiment": {"mmlu": {"formulation": formulation}}}
    return Results({}, ExperimentResults(Path("nowhere"), {}, settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"letters": {"A": 0.95, "B": 0.05}}, "95 % of its answers are A, whatever the question"),
        ({"interval": [0.2, 0.6]}, "always choosing the same one of A to D (at best 26.9 %)"),
        ({"mass": 0.1}, "gives the letters A to D only 10.0 % of the next token"),
        ({"shortened": 20}, "20 % of the prompts exceeded its context length"),
    ],
)
def test_answers_of_doubtful_meaning_are_pointed_out(change, words):
    row = {"letters": {"A": 0.5, "B": 0.5}, "interval": [0.4, 0.6], "always": 0.2689, "mass": 0.9}
    row |= {"questions": 100, "shortened": 0}
    found = list(answer_cautions(with_formulation("letter"), row | change))
    assert len(found) == (words is not None) and (words or "") in " ".join(found)


def test_low_letter_mass_is_no_caution_for_cloze():
    row = {"letters": {"A": 0.5}, "interval": None, "always": 0.3, "mass": 0.1}
    row |= {"questions": 1, "shortened": 0}
    assert not list(answer_cautions(with_formulation("cloze"), row))


@pytest.mark.parametrize(
    ("formulation", "normalization", "words"),
    [
        ("letter", "characters", "equal those of lm-evaluation-harness 0.4.13"),
        ("cloze", "none", "equal acc of"),
        ("cloze", "tokens", "has no such score"),
    ],
)
def test_figures_are_called_the_harness_s_only_if_it_has_that_metric(formulation, normalization, words):
    assert words in harness_words({"formulation": formulation, "normalization": normalization})


def test_p_values_are_not_rounded_to_zero():
    assert [p_value(p) for p in (1.0, 0.0312, 0.00512, 1e-9, None)] == [
        "1.000",
        "0.031",
        "0.0051",
        "< 0.0001",
        "–",
    ]
