"""A job that is interrupted again and again leaves no more on the disk than one interrupted once."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from disk_use import disk_use
from expertchat.dialogues.contexts import Context, opened
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine import pieces
from expertchat.engine.interface import Pieces, Reply
from expertchat.errors import UserError
from expertchat.pipeline import jobs
from expertchat.pipeline.locks import this_process
from expertchat.pipeline.recipes import Recipe
from expertchat.replies.writing import write_replies
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues

pytestmark = pytest.mark.slow
FEW, MANY = 10, 500  # resumes
TEXTS = {"speaker": "Topic: {{ topic }}", "opening": "Please begin."}
SETTINGS = Dialogues(
    turns=6, seeds_per_topic=10, candidate_turns=[1], candidates=2, decoding=Decoding(max_new_tokens=5)
)
TOPICS = [
    {"topic_id": f"x-{i}", "topic": f"bread {i}", "subject": "x", "split": "held_out"} for i in range(10)
]
ENDS = (
    (KeyboardInterrupt,),
    (UserError, "the server at $A_URL stopped"),
    (OSError, 28, "No space left on device"),
    (MemoryError,),
    (ValueError, "a fault"),
)


class Interrupted:
    """An engine that replies to `calls` calls. Then it raises `error`, a class and its arguments."""

    pieces = Pieces(1, 1)

    def __init__(self, calls: int, error: tuple):
        self.calls, self.error = calls, error

    def generate(self, requests, *_):
        self.calls -= 1
        if self.calls < 0:
            raise self.error[0](*self.error[1:])
        return [Reply(f"word {request.seed % 9}", 2, "stop") for request in requests]


def reply(job, engine):
    contexts = [
        opened(Context(dialogue, 0), TEXTS) for dialogue in create_dialogues(TOPICS, "aa", SETTINGS)
    ]
    write_replies(engine, contexts, 10, SETTINGS.decoding, 7, job.checkpoints, job.out)


def talk(job, engine):
    begun = create_dialogues(TOPICS, "ab", SETTINGS)
    run_dialogues(dict.fromkeys("ab", engine), begun, SETTINGS, TEXTS, 7, job.checkpoints, job.out)


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Runs a job that ends with an error after some calls of its engine. Returns its disk use."""
    recipe = Recipe("replies", {"seed": 1}, "c0de")
    monkeypatch.setattr(jobs, "parse_arguments", lambda stage, description: (recipe, tmp_path))
    monkeypatch.setattr(jobs, "check_code", lambda recipe: None)
    monkeypatch.setattr(os, "fsync", lambda number: None)  # takes most of the time, and no room
    monkeypatch.setattr(pieces, "next_size", lambda size, *_: size)
    before = signal.getsignal(signal.SIGTERM)

    def run(make, calls=1, error=ENDS[0]):
        with pytest.raises(SystemExit) as ended, jobs.open_job("replies", "A job.") as job:
            with (job.checkpoints.parent / "server-a.log").open("a", encoding="utf-8") as log:
                log.write("Starting.\n")  # as a server that the job starts
            make(job, Interrupted(calls, error))
        assert ended.value.code
        return disk_use(tmp_path)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("make", [reply, talk])
def test_many_resumes_take_no_more_room_than_few(attempt, make):
    def resumed(times):
        return [attempt(make, 0, ENDS[number % len(ENDS)]) for number in range(times)][-1]

    attempt(make, 3)
    few = resumed(FEW)
    assert resumed(MANY - FEW) == few


@pytest.mark.parametrize("make", [reply, talk])
def test_many_resumes_that_each_save_a_piece_take_no_more_room_than_one(attempt, make, tmp_path):
    for _ in range(MANY):
        count, size = attempt(make)
    (work,) = (tmp_path / "work/replies").iterdir()
    work.rename(tmp_path / "old")
    assert attempt(make, MANY) == (count + disk_use(tmp_path / "old")[0] + 1, 2 * size)


def test_killed_jobs_leave_one_lock_and_no_part_of_one(attempt, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    few = attempt(reply, 3)
    (work,) = (tmp_path / "work/replies").iterdir()
    for number in range(MANY):  # as SIGKILL leaves them
        dead = replace(this_process(), process=ended.pid, token=str(number))
        text = f"{dead}\n{json.dumps(asdict(dead))}\n"
        (work / "lock").write_text(text)
        (work / f".lock.{number}").write_text(text)
        if number % 50 == 0:
            assert attempt(reply, 0) == few
    assert attempt(reply, 0) == few


def test_logs_of_jobs_are_written_anew(root):
    for path in (root / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        assert text.count("2>&1 | tee {log}") == text.count("rule make_") and ">>" not in text
