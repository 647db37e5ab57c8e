"""Stages anchors and ratings: no item is rated twice or lost; who cannot rate is stopped."""

import numpy as np
import pandas as pd
import pytest
from expertchat.engine.interface import Pieces, Reply, ignore
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.ratings import rating as stage
from expertchat.ratings.anchors import write_anchors
from expertchat.ratings.artifact import read_scores
from expertchat.ratings.asking import (
    presentations_of,
    questions_on,
    rate_presentations,
)
from expertchat.ratings.items import items_for
from expertchat.ratings.probe import PROBE_ITEMS, probe_items
from expertchat.ratings.rating import rate
from expertchat.records import read_json, write_records
from expertchat.settings.anchors import Anchor
from expertchat.settings.models import Load
from small_rater import CANDIDATES, DIALOGUE, rater_on


@pytest.fixture(scope="module")
def engine(llama_folder):
    return LocalEngine(llama_folder, Load(), 64)


def artifact(folder, dialogues=6):
    folder.mkdir()
    said = [DIALOGUE | {"dialogue_id": f"d{i}", "topic": f"bread {i}"} for i in range(dialogues)]
    candidates = [
        c | {"candidate_id": f"d{i}/{c['turn']}", "dialogue_id": f"d{i}", "text": f"say {i}"}
        for i in range(dialogues)
        for c in CANDIDATES
    ]
    write_records(folder / "dialogues.jsonl", said)
    write_records(folder / "candidates.jsonl", candidates)
    return folder


ANCHORS = [
    Anchor(
        anchor_id=str(i), topic="x", rated="B", turns=[{"speaker": "B", "text": f"text {i} " * (i + 1)}]
    )
    for i in range(3)
]


def rated(rater, folder, dialogues, anchors=None) -> pd.DataFrame:
    for name in ("checkpoints", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rate(rater, dialogues, anchors, folder / "checkpoints", folder / "out")
    return read_scores([folder / "out"], rater.settings.min_valid_mass)


def test_a_long_table_within_the_scale(engine, tmp_path):
    rater = rater_on(engine, canary_share=1.0, self_rating=True)
    (tmp_path / "anchors").mkdir()
    write_anchors(rater, ANCHORS, tmp_path / "checkpoints", tmp_path / "anchors")
    table = rated(rater, tmp_path, artifact(tmp_path / "said"), tmp_path / "anchors")
    assert len(table) == 6 * 4 * 2 * 2  # 2 ratees and 2 replies a dialogue, categories, copies
    assert table["score"].between(1, 10).all() and table["valid_mass"].between(0, 1).all()
    keys = ["scope", "item_id", "ratee", "order", "repeat", "canary", "category"]
    assert not table.duplicated(keys).any()
    assert table["standard"].notna().all()
    one = table[table["category"] == "wit"]
    ratio = np.polyfit(one["score"], one["standard"], 1)  # a line, the same for the whole category
    assert np.allclose(np.polyval(ratio, one["score"]), one["standard"])
    copied = pd.read_parquet(tmp_path / "out/anchors.parquet")
    assert len(copied) == 3 * 2 and set(copied["rater"]) == {rater.name}
    assert "rater" not in pd.read_parquet(tmp_path / "anchors/anchors.parquet").columns


class Counting:
    """An engine that counts its groups of questions, and is interrupted after some calls."""

    pieces = Pieces(64, 1000)

    def __init__(self, engine, calls=10**9):
        self.engine, self.calls, self.groups = engine, calls, 0

    def answer_logprobs(self, groups, on_batch=ignore):
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.groups += len(groups)
        return self.engine.answer_logprobs(groups, on_batch)


def test_an_interrupted_job_resumes_and_rates_nothing_twice(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "BLOCK", 4)
    dialogues = artifact(tmp_path / "said")
    whole = rated(rater_on(engine), tmp_path / "whole", dialogues)
    # probe and one block; then the rest
    first, second = Counting(engine, calls=2), Counting(engine)
    with pytest.raises(KeyboardInterrupt):
        rated(rater_on(first), tmp_path / "broken", dialogues)
    resumed = rated(rater_on(second), tmp_path / "broken", dialogues)
    pd.testing.assert_frame_equal(whole, resumed)
    assert first.groups == PROBE_ITEMS + 4 and second.groups == 12 - 4
    assert not list((tmp_path / "broken").rglob("*.part"))


def test_blocks_do_not_change_the_ratings(engine, tmp_path, monkeypatch):
    dialogues = artifact(tmp_path / "said")
    whole = rated(rater_on(engine), tmp_path / "whole", dialogues)
    monkeypatch.setattr(stage, "BLOCK", 5)
    blocks = rated(rater_on(engine), tmp_path / "blocks", dialogues)
    pd.testing.assert_frame_equal(whole, blocks, rtol=1e-4, check_categorical=False)


def candidates_of(*turns, copies=3) -> list[dict]:
    """Candidates of several contexts of `DIALOGUE`, whose seats alternate."""
    return [
        {
            "candidate_id": f"d/t{turn}/c{k}",
            "dialogue_id": "d",
            "turn": turn,
            "speaker": "ba"[turn % 2],
            "text": f"I say {k} " * (k + 1),
        }
        for turn in turns
        for k in range(copies)
    ]


class Recording:
    """An engine that records the groups that it is asked, and answers like another."""

    pieces = Pieces(64, 1000)

    def __init__(self, engine):
        self.engine, self.calls = engine, []

    def answer_logprobs(self, groups, on_batch=ignore):
        self.calls.append(groups)
        return self.engine.answer_logprobs(groups, on_batch)


def test_candidates_of_one_context_are_asked_in_one_group(engine):
    recording = Recording(engine)
    rater = rater_on(recording, orders="both", canary_share=1.0, repeats=2)
    items = list(items_for("c", [DIALOGUE], candidates_of(0, 2, 1)))
    shown = [p for item in items for p in presentations_of(item, rater.settings, 10, 0)]
    assert any(p.canary for p in shown if p.item.scope == "reply")
    rows = rate_presentations(rater, shown)
    (groups,) = recording.calls
    whole = [p for p in shown if p.item.scope == "dialogue"]
    assert [len(group) for group in groups[: len(whole)]] == [2 * p.repeats for p in whole]
    assert len(groups) == len(whole) + 3  # one group per context
    for turn, group in zip((0, 2, 1), groups[len(whole) :], strict=True):
        own = [p for p in shown if p.item.context_id == f"d/t{turn}"]
        assert group == [question for p in own for question in questions_on(p, rater)]
    # as if each presentation were a group of its own, and in the same order
    apart = [row for p in shown for row in rate_presentations(rater, [p])]
    keys = ("scope", "item_id", "ratee", "label", "order", "repeat", "canary", "category")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in apart]
    for figure in ("score", "entropy", "valid_mass"):
        assert [row[figure] for row in rows] == pytest.approx([row[figure] for row in apart], rel=1e-4)
    assert len({row["score"] for row in rows}) > len(rows) / 2  # rows were not mixed up unnoticed


def test_candidates_of_one_context_in_two_blocks_are_two_groups(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "BLOCK", 4)
    (tmp_path / "said").mkdir()
    write_records(tmp_path / "said/dialogues.jsonl", [DIALOGUE])
    write_records(tmp_path / "said/candidates.jsonl", candidates_of(0, 2))
    recording = Recording(engine)
    table = rated(rater_on(recording), tmp_path, tmp_path / "said")
    _, *blocks = recording.calls  # the first is for the probe
    # a rates the dialogue of b and six replies by b, without canaries: 1 + 3 items, then 3
    assert [[len(group) for group in groups] for groups in blocks] == [[2, 2 * 3], [2 * 3]]
    assert len(table) == 7 * 2
    monkeypatch.setattr(stage, "BLOCK", 3)
    recording.calls.clear()
    again = rated(rater_on(recording), tmp_path / "other", tmp_path / "said")
    assert [[len(group) for group in groups] for groups in recording.calls[1:]] == [
        [2, 2 * 2],
        [2 * 1, 2 * 2],
        [2 * 1],
    ]
    pd.testing.assert_frame_equal(table, again, rtol=1e-4, check_categorical=False)


def test_no_dialogue_gives_an_empty_table(engine, tmp_path):
    table = rated(rater_on(engine), tmp_path, artifact(tmp_path / "said", dialogues=0))
    assert table.empty and "score" in table.columns


class Scripted:
    """An engine that gives each score the same probability, and the valid ones `mass` in total.

    It writes `text` where it is asked for a reply.
    """

    pieces = Pieces(64, 1000)

    def __init__(self, mass, text="The speaker"):
        self.mass, self.text, self.items, self.asked = mass, text, [], []

    def answer_logprobs(self, groups, on_batch=ignore):
        self.items.append(len(groups))
        for group in groups:
            on_batch(len(group), 100, 0.1)
        each = [np.full(len(q.answers), np.log(self.mass / len(q.answers))) for g in groups for q in g]
        found = iter(each)
        return [[next(found) for _ in group] for group in groups]

    def generate(self, requests, decoding):
        self.asked += requests
        return [Reply(self.text, 2, "length") for _ in requests]


def test_a_rater_that_does_not_answer_with_scores_is_stopped_by_the_probe(tmp_path):
    dialogues = artifact(tmp_path / "said", dialogues=40)
    wordy = Scripted(mass=0.3)
    with pytest.raises(UserError) as caught:
        rated(rater_on(wordy, min_valid_mass=0.5), tmp_path, dialogues)
    message = str(caught.value)
    assert "a: the scores 1 to 10 have a mean probability of 0.30; 16 of 16 ratings are below" in message
    assert "ratings.min_valid_mass: 0.5" in message and "It writes 'The speaker' instead" in message
    assert "{% block reply %}" in message and "stronger rater" in message
    assert wordy.items == [PROBE_ITEMS]  # and none of the 80 items
    for floor in (0.0, 0.3):
        assert len(
            rated(rater_on(Scripted(0.31), min_valid_mass=floor), tmp_path / str(floor), dialogues)
        )


def test_the_probe_is_spread_over_the_items_and_is_rated_again_with_the_others():
    assert probe_items(list(range(15)), 15) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert probe_items([1, 2, 3], 3) == [1, 2, 3] and probe_items([1], 1) == [1]


def test_progress_moves_with_each_pass_of_the_engine(tmp_path, capsys):
    rated(rater_on(Scripted(0.9)), tmp_path, artifact(tmp_path / "said", dialogues=40))
    lines = [line for line in capsys.readouterr().err.splitlines() if "items" in line and "%" in line]
    assert len(lines) == 11 and "8/80 items" in lines[1] and "tokens/s" in lines[1]  # all in one block
    assert "80/80 items" in lines[-1]


def test_what_the_rater_gave_is_said(engine, tmp_path, capsys):
    rated(rater_on(engine), tmp_path, artifact(tmp_path / "said"))
    said = capsys.readouterr().err
    assert said.count("a: the scores 1 to 10 have a mean probability of") == 2  # probe and whole
    check = read_json(tmp_path / "out/anchors.json")
    assert check["rater"] == "a" and check["blind"] is None


def test_what_the_anchors_show_is_said_and_written(engine, tmp_path, capsys):
    write_anchors(rater_on(engine), ANCHORS, tmp_path / "checkpoints", tmp_path)
    said = capsys.readouterr().err
    assert "a: it is unknown whether it tells good from bad: 0 topics have good and bad anchors" in said
    assert "3/3 anchors" in said and "a: the scores 1 to 10 have a mean probability of" in said
    assert read_json(tmp_path / "anchors.json")["topics"] == 0


def test_a_rater_without_scores_is_stopped_by_the_anchors_before_any_dialogue(tmp_path):
    with pytest.raises(UserError, match="6 of 6 ratings are below") as caught:
        write_anchors(
            rater_on(Scripted(mass=0.3), min_valid_mass=0.5),
            ANCHORS,
            tmp_path / "work",
            tmp_path / "out",
        )
    assert "It writes 'The speaker' instead" in str(caught.value)
    assert not (tmp_path / "out").exists()
