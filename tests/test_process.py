"""Engines in their own processes give the same results as in this one, and end with it."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine.interface import Pieces, Question, Request, Source
from expertchat.engine.opening import arrange, open_engine, open_engines, place_copies
from expertchat.engine.process import ProcessEngine
from expertchat.engine.replicas import Replicas
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.models import Load

pytestmark = pytest.mark.slow

REQUESTS = [Request([{"role": "user", "content": text}], i) for i, text in enumerate(["bread", "rye"])]
QUESTIONS = [[Question("Topic: bread", [" A", " B"])], [Question("Rate", [" A", " B"])]]
DECODING = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def sources(llama_folder, tmp_path_factory):
    """Two models in different folders."""
    copy = tmp_path_factory.mktemp("copy") / "llama"
    shutil.copytree(llama_folder, copy)
    return [Source(*named, Load(), 4) for named in (("a", llama_folder), ("b", copy))]


@pytest.fixture
def pair(sources, monkeypatch):
    """Two engines, each in a process of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    engines, side_by_side = open_engines(sources)
    assert side_by_side and all(isinstance(engine, ProcessEngine) for engine in engines.values())
    yield engines
    for engine in engines.values():
        engine.close()


def test_they_give_the_results_of_an_engine_here_and_report_progress(pair, llama_folder):
    here = open_engine(Source("here", llama_folder, Load(), 4))
    batches, asked = [], []
    for engine in pair.values():
        found = engine.generate(REQUESTS, DECODING, lambda *done: batches.append(done))
        assert found == here.generate(REQUESTS, DECODING)
        logprobs = engine.answer_logprobs(QUESTIONS, lambda *done: asked.append(done))
        for ours, theirs in zip(logprobs, here.answer_logprobs(QUESTIONS), strict=True):
            assert ours[0].tolist() == pytest.approx(theirs[0].tolist(), abs=1e-5)
    assert [replies for replies, _, _ in batches] == [2, 2] and sum(
        questions for questions, _, _ in asked
    ) == 4


def test_an_interrupted_job_does_not_wait_for_the_current_turn(pair, tmp_path):
    topics = [{"topic_id": "t", "topic": "x", "subject": "y", "split": "train"}] * 40
    settings = Dialogues(turns=2, candidate_turns=[], decoding=Decoding(max_new_tokens=400))

    class Stopped:
        pieces = Pieces(64, 1000)

        def __init__(self, engine):
            self.engine, self.close = engine, engine.close

        def generate(self, *arguments):
            raise KeyboardInterrupt

    pair["a"].use(None)
    pair["b"].use(None)
    engines = {"a": Stopped(pair["a"]), "b": pair["b"]}
    texts = {"speaker": "{{ topic }}", "opening": "Begin."}
    begun = create_dialogues(topics, "ab", settings)
    with pytest.raises(KeyboardInterrupt):
        run_dialogues(engines, begun, settings, texts, 0, tmp_path, tmp_path, side_by_side=True)
    assert not pair["b"]._process.is_alive()


def test_errors_of_the_engine_are_errors_here(pair):
    long = [Request([{"role": "user", "content": "bread " * 5000}], 0)]
    with pytest.raises(UserError, match="the model reads at most"):
        pair["a"].generate(long, DECODING)
    assert pair["a"].generate(REQUESTS, DECODING)  # the engine still works


def test_a_process_that_dies_is_reported_in_one_sentence(pair):
    pair["a"].use(None)
    pair["a"]._process.kill()
    with pytest.raises(UserError, match="process of a ended with exit code -9"):
        pair["a"].generate(REQUESTS, DECODING)


def test_a_model_that_cannot_be_opened_says_why(tmp_path):
    engine = ProcessEngine(Source("a", tmp_path / "nowhere", Load(), 4), None, 1, open_engine)
    with pytest.raises(Exception, match="nowhere"):
        engine.generate(REQUESTS, DECODING)
    engine.close()


def test_with_a_thread_for_both_they_share_this_process(sources, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    engines, side_by_side = open_engines(sources)
    assert not side_by_side and not any(isinstance(engine, ProcessEngine) for engine in engines.values())
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert arrange(sources) == ({}, 2, True)


def test_no_process_outlives_one_that_is_killed(llama_folder):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from expertchat.engine.interface import Source\n"
        "from expertchat.engine.opening import open_engine\n"
        "from expertchat.engine.process import ProcessEngine\n"
        "from expertchat.settings.models import Load\n"
        "if __name__ == '__main__':\n"
        "    engine = ProcessEngine(Source('a', Path(sys.argv[1]), Load(), 4), None, 1, open_engine)\n"
        "    engine.use(None)\n"
        "    print(engine._process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", program, str(llama_folder)], stdout=subprocess.PIPE, text=True
    )
    child = int(killed.stdout.readline())
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    end = time.time() + 20
    commands = Path(f"/proc/{child}/cmdline")
    while commands.exists() and commands.read_bytes():
        assert time.time() < end, "the engine's process is still running"
        time.sleep(0.1)


def test_copies_divide_the_work_and_answer_as_one(pair, llama_folder):
    here = open_engine(Source("here", llama_folder, Load(), 4))
    copies = Replicas(list(pair.values()))
    many = [Request(REQUESTS[i % 2].messages, i, f"s{i % 3}") for i in range(7)]
    done = []
    for _ in range(2):  # the second time from cached prefixes
        found = copies.generate(many, DECODING, lambda replies, *_: done.append(replies))
        assert found == here.generate(many, DECODING)
    assert sum(done) == 14 and len(done) >= 4  # both had their part
    groups = QUESTIONS * 3
    for ours, theirs in zip(copies.answer_logprobs(groups), here.answer_logprobs(groups), strict=True):
        assert ours[0].tolist() == pytest.approx(theirs[0].tolist(), abs=1e-5)
    assert copies.generate([], DECODING) == []


class Counted:
    """An engine that counts its questions."""

    def __init__(self, engine):
        self.engine, self.questions = engine, 0

    def answer_logprobs(self, groups, on_batch):
        self.questions += sum(map(len, groups))
        return self.engine.answer_logprobs(groups, on_batch)


def test_copies_divide_the_questions_of_one_subject(llama_folder):
    engines = [Counted(open_engine(Source(name, llama_folder, Load(), 4))) for name in "ab"]
    groups = [
        [Question(f"Topic {i} of bread\nRate" * 9, [" A", " B"]) for i in range(size)]
        for size in (15, 1)
    ]
    done = []
    found = Replicas(engines).answer_logprobs(groups, lambda questions, *_: done.append(questions))
    assert sum(done) == 16 and [engine.questions for engine in engines] == [9, 7]
    expected = engines[0].engine.answer_logprobs(groups)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.tolist() == pytest.approx(b.tolist(), abs=1e-4)


@pytest.mark.parametrize(("free", "copies"), [([10**9] * 4, 4), ([310_000] * 4, 2), ([310_000] * 3, 1)])
def test_as_many_copies_as_fit_side_by_side(llama_folder, monkeypatch, free, copies):
    monkeypatch.setattr(
        "expertchat.engine.opening.WORKING_TOKENS", 16
    )  # 140 KB of weights, 226 KB of working memory
    source = Source("a", llama_folder, Load(), 4)
    placements = place_copies(source, free)
    gpus = [set(devices.values()) for devices in placements]
    assert len(gpus) == copies and sum(map(len, gpus)) == len(set().union(*gpus))
