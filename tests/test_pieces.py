"""Long calls are made and saved piece by piece: an interruption costs at most one piece."""

from contextlib import suppress

import pytest
from expertchat.checkpoints import INTERVAL, Checkpoints
from expertchat.dialogues.contexts import Context, opened
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine import pieces
from expertchat.engine.interface import Pieces, Question
from expertchat.engine.local import LocalEngine
from expertchat.engine.pieces import answer_saved, next_size, split_groups
from expertchat.replies.writing import write_replies
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.models import Load

TEXTS = {"speaker": "Topic: {{ topic }}", "opening": "Please begin."}
TOPICS = [
    {"topic_id": f"x-{i}", "topic": f"bread {i}", "subject": "x", "split": "held_out"} for i in range(5)
]
SETTINGS = Dialogues(
    turns=2, seeds_per_topic=1, candidate_turns=[1], candidates=3, decoding=Decoding(max_new_tokens=5)
)


@pytest.fixture
def steady(monkeypatch):
    """All pieces have the smallest size, and each is saved, whatever time they take."""
    monkeypatch.setattr(pieces, "next_size", lambda size, *_: size)
    monkeypatch.setattr(Checkpoints, "due", True)


@pytest.fixture(scope="module")
def llama(llama_folder):
    return LocalEngine(llama_folder, Load(), 4)


class Interrupted:
    """An engine whose process ends at its call number `last`, counted from 1."""

    pieces = Pieces(replies=3, questions=2)

    def __init__(self, engine, last: int):
        self.engine, self.last, self.drawn, self.asked = engine, last, [], []

    def _call(self):
        self.last -= 1
        if not self.last:
            raise KeyboardInterrupt

    def generate(self, requests, *arguments):
        self._call()
        self.drawn += [request.seed for request in requests]
        return self.engine.generate(requests, *arguments)

    def answer_logprobs(self, groups, *arguments):
        self._call()
        self.asked += [question.prompt for group in groups for question in group]
        return self.engine.answer_logprobs(groups, *arguments)


def reply(engine, folder):
    """The bytes of replies.jsonl: two replies to each of five contexts, in four pieces."""
    contexts = [
        opened(Context(dialogue, 0), TEXTS) for dialogue in create_dialogues(TOPICS, "aa", SETTINGS)
    ]
    out, checkpoints = folder / "out", folder / "checkpoints"
    for path in (out, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    write_replies(engine, contexts, 2, SETTINGS.decoding, 7, checkpoints, out)
    return (out / "replies.jsonl").read_bytes()


def talk(engine, folder):
    """The bytes of both files of the dialogues."""
    out, checkpoints = folder / "out", folder / "checkpoints"
    for path in (out, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    begun = create_dialogues(TOPICS, "ab", SETTINGS)
    run_dialogues({"a": engine, "b": engine}, begun, SETTINGS, TEXTS, 7, checkpoints, out)
    return [(out / name).read_bytes() for name in ("dialogues.jsonl", "candidates.jsonl")]


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("make", [reply, talk])
def test_a_job_interrupted_in_each_piece_draws_every_reply_once_and_ends_with_the_same_bytes(
    llama, tmp_path, make
):
    whole = Interrupted(llama, 0)
    expected = make(whole, tmp_path / "whole")
    assert len(set(whole.drawn)) == len(whole.drawn)
    drawn, result = [], None
    while result is None:
        engine = Interrupted(llama, 2)  # one piece per attempt
        try:
            result = make(engine, tmp_path / "broken")
        except KeyboardInterrupt:
            assert engine.drawn and not list((tmp_path / "broken/out").iterdir())
        drawn += engine.drawn
    assert result == expected and drawn == whole.drawn


@pytest.mark.usefixtures("steady")
def test_a_damaged_piece_is_drawn_again(llama, tmp_path):
    expected = reply(llama, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        reply(Interrupted(llama, 3), tmp_path / "broken")
    saved = Checkpoints(tmp_path / "broken/checkpoints/replies")
    (saved.folder / saved.names()[-1] / pieces.DRAWN).write_text("")
    assert reply(llama, tmp_path / "broken") == expected


@pytest.mark.usefixtures("steady")
def test_saved_replies_to_texts_that_are_drawn_again_are_not_used(llama, tmp_path):
    expected = talk(llama, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):  # in the second turn, which has seven pieces
        talk(Interrupted(llama, 5), tmp_path / "broken")
    turns = Checkpoints(tmp_path / "broken/checkpoints/turns")
    assert len(turns.names()) == 1
    (turns.folder / turns.names()[0] / "dialogues.jsonl").write_text("")
    engine = Interrupted(llama, 0)
    assert talk(engine, tmp_path / "broken") == expected
    assert len(engine.drawn) == 5 + 5 + 15  # both turns and all candidates


def test_pieces_take_about_an_interval_and_hold_enough_for_a_batch():
    assert next_size(64, 16, INTERVAL / 2) == 128
    assert next_size(640, 16, INTERVAL * 2) == 320
    assert next_size(64, 16, 10 * INTERVAL) == 16 and next_size(64, 16, 0.0) == 256


@pytest.mark.usefixtures("steady")
def test_answers_interrupted_in_each_piece_are_asked_once_and_end_with_the_same_bits(llama, tmp_path):
    groups = [[Question(f"{g} {i}" * 9, [" yes", " no", " it is"][: 2 + i % 2]) for i in range(n)]
              for g, n in enumerate((3, 1, 0, 1, 9, 2))]  # fmt: skip
    whole, asked, done, found = Interrupted(llama, 0), [], [], None
    expected = answer_saved(whole, groups, None)
    while found is None:
        engine = Interrupted(llama, 2)
        done.append([])
        with suppress(KeyboardInterrupt):
            found = answer_saved(engine, groups, Checkpoints(tmp_path), lambda n, *_: done[-1].append(n))
        asked += engine.asked
    assert asked == whole.asked and sum(done[-1]) == len(asked) == 16
    for group, same in zip(found, expected, strict=True):
        assert [x.tobytes() for x in group] == [x.tobytes() for x in same]
    apart = llama.answer_logprobs(groups)
    for group, same in zip(found, apart, strict=True):
        assert [pytest.approx(x, abs=1e-4) for x in group] == same


@pytest.mark.usefixtures("steady")
def test_answers_that_were_saved_in_other_pieces_are_asked_again_from_there(llama, tmp_path):
    groups = [[Question(f"{i}" * 5, [" a", " b"])] for i in range(7)]
    expected = answer_saved(Interrupted(llama, 0), groups, None)
    odd = Interrupted(llama, 2)
    odd.pieces = Pieces(1, 3)
    with pytest.raises(KeyboardInterrupt):
        answer_saved(odd, groups, Checkpoints(tmp_path))
    engine = Interrupted(llama, 0)
    found = answer_saved(engine, groups, Checkpoints(tmp_path))
    assert engine.asked == [group[0].prompt for group in groups[2:]]  # the third is in a new piece
    assert [x[0].tobytes() for x in found[2:]] == [x[0].tobytes() for x in expected[2:]]


def test_groups_are_divided_only_if_they_are_large():
    assert split_groups([2, 1, 3, 0, 1], 3) == [
        [(0, range(2)), (1, range(1))],
        [(2, range(3))],
        [(4, range(1))],
    ]
    assert split_groups([1, 12, 13, 1], 3) == [
        [(0, range(1))],
        [(1, range(12))],  # a group of up to four pieces stays whole
        [(2, range(12))],
        [(2, range(12, 13)), (3, range(1))],
    ]
    assert split_groups([], 3) == []
