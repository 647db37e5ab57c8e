"""Many replies are drawn and saved piece by piece: an interruption costs at most one piece."""

import pytest
from expertchat.checkpoints import INTERVAL, Checkpoints
from expertchat.dialogues import pieces
from expertchat.dialogues.contexts import Context
from expertchat.dialogues.pieces import SMALLEST, next_size
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine.local import LocalEngine
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
def small_pieces(monkeypatch):
    """Pieces of three replies, whatever time they take."""
    monkeypatch.setattr(pieces, "SMALLEST", 3)
    monkeypatch.setattr(pieces, "next_size", lambda size, seconds: size)


@pytest.fixture(scope="module")
def llama(llama_folder):
    return LocalEngine(llama_folder, Load(), 4)


class Interrupted:
    """An engine whose process ends at its call number `last`, counted from 1."""

    def __init__(self, engine, last: int):
        self.engine, self.last, self.drawn = engine, last, []

    def generate(self, requests, *arguments):
        self.last -= 1
        if not self.last:
            raise KeyboardInterrupt
        self.drawn += [request.seed for request in requests]
        return self.engine.generate(requests, *arguments)


def reply(engine, folder):
    """The bytes of replies.jsonl: two replies to each of five contexts, in four pieces."""
    contexts = [Context(dialogue, 0) for dialogue in create_dialogues(TOPICS, "aa", SETTINGS)]
    out, checkpoints = folder / "out", folder / "checkpoints"
    for path in (out, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    write_replies(engine, contexts, 2, TEXTS, SETTINGS, 7, checkpoints, out)
    return (out / "replies.jsonl").read_bytes()


def talk(engine, folder):
    """The bytes of both files of the dialogues."""
    out, checkpoints = folder / "out", folder / "checkpoints"
    for path in (out, checkpoints):
        path.mkdir(parents=True, exist_ok=True)
    begun = create_dialogues(TOPICS, "ab", SETTINGS)
    run_dialogues({"a": engine, "b": engine}, begun, SETTINGS, TEXTS, 7, checkpoints, out)
    return [(out / name).read_bytes() for name in ("dialogues.jsonl", "candidates.jsonl")]


@pytest.mark.usefixtures("small_pieces")
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


@pytest.mark.usefixtures("small_pieces")
def test_a_damaged_piece_is_drawn_again(llama, tmp_path):
    expected = reply(llama, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        reply(Interrupted(llama, 3), tmp_path / "broken")
    saved = Checkpoints(tmp_path / "broken/checkpoints/replies")
    (saved.folder / saved.names()[-1] / pieces.DRAWN).write_text("")
    assert reply(llama, tmp_path / "broken") == expected


@pytest.mark.usefixtures("small_pieces")
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
    assert next_size(64, INTERVAL / 2) == 128
    assert next_size(640, INTERVAL * 2) == 320
    assert next_size(64, 10 * INTERVAL) == SMALLEST and next_size(64, 0.0) == 256
