"""Progress in logs: few lines, each of which names its job."""

import io

import pytest
from expertchat import console
from expertchat.console import ProgressLines, label_job, progress_bar


@pytest.fixture(autouse=True)
def no_job_label(monkeypatch):
    monkeypatch.setattr(console, "_job_label", "")


def lines_of(total, updates, label="topics", unit="topics") -> list[str]:
    stream = io.StringIO()
    with ProgressLines(total, label, unit, stream) as progress:
        for n in updates:
            progress.update(n)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("total", [1000, 999, 37])
def test_there_is_one_line_per_tenth_and_a_first_and_a_last(total):
    lines = lines_of(total, [1] * total)
    assert len(lines) <= 12
    assert lines[0].startswith(f"topics   0% | 0/{total:,} topics")
    assert lines[-1].startswith(f"topics 100% | {total:,}/{total:,} topics")


def test_an_interrupted_job_prints_how_far_it_came():
    lines = lines_of(1000, [1] * 137)
    assert [line.split("|")[0] for line in lines] == ["topics   0% ", "topics  10% ", "topics  13% "]


def test_large_steps_and_unchanged_counts_print_nothing_twice():
    assert len(lines_of(10, [5, 0, 0, 5, 0])) == 3
    assert lines_of(0, [0, 0]) == []


@pytest.mark.parametrize(
    ("job", "label", "begin"),
    [
        ("ratings of llama in round 1", "ratings by llama", "ratings of llama in round 1  "),
        ("rewards of llama in round 1", "scores", "rewards of llama in round 1, scores  "),
        ("", "scores", "scores  "),
    ],
)
def test_each_line_begins_with_the_label_of_the_job(job, label, begin):
    label_job(job)
    assert all(line.startswith(begin) for line in lines_of(200, [50], label))


def test_the_remaining_time_follows_from_the_speed_of_this_attempt(monkeypatch):
    now = iter([0.0, 0.0, 0.5, 60.5, 3660.5])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    progress = ProgressLines(100, "topics", "topics", stream)
    progress.update(40)  # resumed: 40 topics are from an earlier attempt
    progress.set_postfix_str("7 tokens/s")
    progress.update(20)
    progress.update(20)
    assert [line.split("| ")[1] for line in stream.getvalue().splitlines()] == [
        "0/100 topics, 0:00 elapsed",
        "40/100 topics, 0:00 elapsed",
        "60/100 topics, 1:00 elapsed, 2:00 left, 7 tokens/s",
        "80/100 topics, 1:01:00 elapsed, 1:00:00 left, 7 tokens/s",
    ]


def test_a_stream_that_is_no_terminal_gets_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(console.sys, "stderr", stream)
    with progress_bar(4, "topics", "topics") as progress:
        progress.update(4)
    assert len(stream.getvalue().splitlines()) == 2 and "\r" not in stream.getvalue()


def test_a_rate_below_one_a_second_is_by_the_minute():
    assert console.rate(24_690, 2, "tokens") == "12,345 tokens/s"
    assert console.rate(3, 25, "answers") == "7.2 answers/min"
    assert console.rate(0, 25, "answers") == "0 answers/min"
