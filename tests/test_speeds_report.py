"""What the report, summary.json and `expertchat show` say about measured models."""

import re
from pathlib import Path

import pytest
from expertchat.report.page import write_report
from expertchat.report.summary import summarise
from expertchat.report.summary_speeds import parameters, speed_verdict
from expertchat.report.terminal import speed_lines
from planning import MEASURING
from small_experiment import asking_config, write_experiment

ROOT = Path(__file__).resolve().parents[1]
BATCH_OF_FOUR = {"batch_sizes": [1, 4], "prompt_lengths": [64], "output_lengths": [16]}


def measuring(**changes) -> dict:
    return MEASURING | {"speeds": MEASURING["speeds"] | BATCH_OF_FOUR | changes}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = measuring(quality={"smol": 61.5}, published={"smol": 50})
    return write_experiment(tmp_path_factory.mktemp("speeds"), config)


@pytest.fixture(scope="module")
def summary(run):
    return summarise(run)


def test_the_answer_in_words(summary):
    # the second variant takes 2 s and 2 GB, which still fits, and has one byte of weights less
    assert summary["verdict"] == [
        "The biggest model that fits 4 GB and 2 s a sample (512 tokens of prompt, 256 of reply, 1 "
        "sample at once), measured on a card, is smol (auto) with 2.78 billion parameters: 1 s a "
        "sample, 1 GB; 900 samples take 0.25 h.",
        "The best one by quality (61.50) is it too.",
    ]
    assert summary["speeds"]["biggest"] == summary["speeds"]["best"] == ["smol", "auto"]
    assert [row["misfit"] for row in summary["speeds"]["candidates"]] == ["", ""]


def test_nothing_fits(tmp_path):
    budget = MEASURING["speeds"]["budget"] | {"gpu_memory_gb": 1.5, "seconds_per_sample": 0.5}
    summary = summarise(write_experiment(tmp_path, measuring(budget=budget)))
    assert summary["verdict"] == [
        "No model fits 1.5 GB and 0.5 s a sample (512 tokens of prompt, 256 of reply, 1 sample at "
        "once), measured on a card. The fastest is smol (auto): 1 s a sample, 1 GB."
    ]
    misfits = [row["misfit"] for row in summary["speeds"]["candidates"]]
    assert misfits == ["1 s a sample", "2.0 GB and 2 s a sample"]
    assert summary["speeds"]["biggest"] is summary["speeds"]["best"] is None


def test_the_quality_is_the_accuracy_if_questions_are_asked(tmp_path):
    config = asking_config(speeds=measuring()["speeds"])
    summary = summarise(write_experiment(tmp_path, config))
    assert summary["speeds"]["quality"] == "mmlu"
    assert {row["quality"] for row in summary["speeds"]["candidates"]} == {50.0}
    assert summary["verdict"][-1].startswith("The best one by accuracy on the questions (50.00) is ")


def test_the_table_of_all_batches(run):
    table = run.speeds()
    assert (
        len(table) == 2 * 8 and list(table)[:1] == ["model"] and set(table["variant"]) == {"auto", "nf4"}
    )
    assert set(table[table["batch_size"] == 4]["reason"]) == {"memory ran out"}
    assert set(table[table["batch_size"] == 1]["reason"]) == {""}


def test_show_prints_ours_beside_the_published(summary):
    lines = speed_lines(summary)
    assert lines[1].split()[-1] == "fits" and "published tokens/s" in lines[1]
    # 255 tokens after the first in 0.75 s
    assert lines[2].split() == [
        "smol",
        "(auto)",
        "2.78",
        "1.00",
        "340.0",
        "1.00",
        "0.25",
        "61.50",
        "50.0",
        "yes",
    ]
    assert lines[-1].startswith("Published speeds are by others")


def test_the_section_of_the_report(run, summary, tmp_path):
    summary = summary | {"cautions": []}
    write_report(summary, run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="speeds"' in html and html.count("<svg") >= 3
    text = re.sub(r"<[^>]+>", " ", html)
    for words in ("yes ★ ☆", "Seconds by length of the reply", "published, tokens/s", "memory ran out"):
        assert words in text, words


def test_every_key_is_documented(summary):
    text = (ROOT / "docs/summary.md").read_text(encoding="utf-8").split("## `speeds`")[1]
    documented = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert set(documented) == {*summary["speeds"], *summary["speeds"]["candidates"][0]}


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "an unknown number of parameters"),
        (35_040, "35,040 parameters"),
        (134_515_008, "135 million parameters"),
        (46_702_792_704, "46.7 billion parameters"),
    ],
)
def test_parameters_in_words(count, words):
    assert parameters(count) == words


def test_a_server_is_shown_and_not_chosen(run, summary, tmp_path):
    auto, nf4 = summary["speeds"]["candidates"]
    unknown = dict.fromkeys(("parameters", "memory_bytes", "weights_bytes", "planned_bytes"))
    server = nf4 | unknown | {"misfit": "its memory is not known", "load_seconds": None}
    server |= {"prefill_tokens_per_second": None, "decode_tokens_per_second": None}
    figures = summary["speeds"] | {"candidates": [auto, server]}
    assert speed_verdict(figures)[-1] == (
        "smol (nf4) was timed from outside, and its memory is not known, so it cannot be chosen: 2 s a "
        "sample."
    )
    shown = summary | {"speeds": figures, "cautions": []}
    write_report(shown, run, tmp_path / "report.html")
    assert "no: its memory is not known" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert speed_lines(shown)[3].split()[-1] == "no"
