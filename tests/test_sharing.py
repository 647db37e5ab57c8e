"""Names with the same weights share one model in memory, and say what they would say with their own."""

import shutil
from dataclasses import replace

import pytest
from conftest import count_tokens
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.dialogues.talk import create_dialogues, run_dialogues
from expertchat.engine import batches, local
from expertchat.engine.interface import Question, Request, Source, names_by_engine
from expertchat.engine.opening import open_engine, open_engines, place_on_gpus
from expertchat.engine.process import ProcessEngine
from expertchat.engine.sharing import AdapterEngine, as_one_source, group_by_weights
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.models import Load, Server

TEXTS = {"speaker": "Topic: {{ topic }}", "opening": "Please begin."}
TOPICS = [
    {"topic_id": f"x-{i}", "topic": f"bread {i}", "subject": "x", "split": "train"} for i in range(4)
]
DECODING = Decoding(max_new_tokens=8)
SETTINGS = Dialogues(turns=4, seeds_per_topic=1, candidate_turns=[1, 2], candidates=2, decoding=DECODING)
QUESTIONS = [[Question("Topic: bread", ["A", "B"])]]


def pair(folder, *adapters):
    return [Source(name, folder, Load(), 16, a) for name, a in zip("ab", adapters, strict=True)]


def talk(engines, folder, **options):
    """The dialogues and candidates of both engines."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    begun = create_dialogues(TOPICS, "ab", SETTINGS)
    run_dialogues(engines, begun, SETTINGS, TEXTS, 0, checkpoints, folder, **options)
    return read_records(folder / DIALOGUES), read_records(folder / CANDIDATES)


@pytest.fixture
def loads(monkeypatch):
    """The folders of the models that this process has loaded."""
    folders, load_model = [], local.load_model

    def counting(folder, *arguments, **kwargs):
        folders.append(folder)
        return load_model(folder, *arguments, **kwargs)

    monkeypatch.setattr(local, "load_model", counting)
    return folders


@pytest.mark.parametrize("which", [(0, 1), (1, None), (None, 0), (0, 0), (None, None)])
def test_dialogues_on_shared_weights_are_those_of_separate_models(
    llama_folder, adapters, which, loads, tmp_path
):
    sources = pair(llama_folder, *(None if i is None else adapters[i] for i in which))
    separate = {source.name: open_engine(source) for source in sources}
    apart = talk(separate, tmp_path / "apart")
    loads.clear()
    engines, side_by_side = open_engines(sources)
    assert loads == [llama_folder]
    assert side_by_side == (which[0] == which[1]) and list(engines) == ["a", "b"]
    assert talk(engines, tmp_path / "shared", side_by_side=side_by_side) == apart
    assert len({turn["text"] for dialogue in apart[0] for turn in dialogue["turns"]}) > 8


def test_each_adapter_keeps_its_caches(llama_folder, adapters, monkeypatch, tmp_path):
    sources = pair(llama_folder, *adapters)
    apart = {source.name: open_engine(source) for source in sources}
    for engine in apart.values():  # the first call finds out how the model can be run
        engine.answer_logprobs(QUESTIONS)
    read_apart = [count_tokens(engine, monkeypatch) for engine in apart.values()]
    talk(apart, tmp_path / "apart")
    shared = open_engines(sources)[0]
    read = count_tokens(open_both(shared), monkeypatch)
    talk(shared, tmp_path / "shared")
    assert sum(read) == sum(map(sum, read_apart))


def open_both(shared):
    """The engine that two names share, after both have loaded their adapters."""
    for engine in shared.values():
        engine.answer_logprobs(QUESTIONS)
    return shared["a"].engine


def test_a_session_has_a_cache_for_each_adapter(llama_folder, adapters, monkeypatch):
    """The same conversation under the same name: what one adapter computed serves no other."""
    choices = [None, *adapters]
    engine = open_engine(Source("shared", llama_folder, Load(), 4))
    messages = [{"role": "user", "content": "Topic: bread. I bake rye bread at 220 degrees."}]
    replies: dict = {}
    for turn in range(2):
        for adapter in choices:
            engine.use(adapter)
            replies[adapter, turn] = engine.generate([Request(messages, turn, "d")], DECODING)
        messages = [
            *messages,
            {"role": "assistant", "content": "At 220 degrees."},
            {"role": "user", "content": "Why?"},
        ]
    assert len({repr(reply) for reply in replies.values()}) > 3
    for adapter in choices:
        alone = open_engine(Source("alone", llama_folder, Load(), 4, adapter))
        assert replies[adapter, 1] == alone.generate([Request(messages[:3], 1)], DECODING)
    counts = count_tokens(engine, monkeypatch)
    engine.use(None)
    engine.generate([Request(messages[:3], 1, "d")], DECODING)
    assert counts[0] <= 8  # the conversation is still there


def test_names_with_the_same_engine_speak_in_one_call(llama_folder, monkeypatch, tmp_path):
    engines, _ = open_engines(pair(llama_folder, None, None))
    assert [names for _, names in names_by_engine(engines)] == [["a", "b"]]
    rows, generate = [], local.LocalEngine.generate

    def counting(self, requests, *arguments):
        rows.append(len(requests))
        return generate(self, requests, *arguments)

    monkeypatch.setattr(local.LocalEngine, "generate", counting)
    talk(engines, tmp_path)
    assert rows == [4, 8, 4, 8, 4, 4]  # candidates of turns 1 and 2 come before the turn


def test_what_counts_as_the_same_weights(llama_folder, tmp_path):
    (tmp_path / "link").symlink_to(llama_folder)
    shutil.copytree(llama_folder, tmp_path / "copy")
    server = Load(server=Server(url_env="URL"))
    sources = [
        Source("first", llama_folder, Load(batch_size=8), 8),
        Source("linked", tmp_path / "link", Load(batch_size=4), 4),
        Source("copied", tmp_path / "copy", Load(), 8),
        Source("bfloat16", llama_folder, Load(dtype="bfloat16"), 8),
        Source("template", llama_folder, Load(chat_template="plain"), 8),
        Source("served", llama_folder, server, 8),
        Source("served too", llama_folder, server, 8),
    ]
    first, *others = group_by_weights(sources)
    assert [source.name for source in first] == ["first", "linked"]
    assert others == [[source] for source in sources[2:]]
    shared = as_one_source(first)
    assert (shared.name, shared.folder, shared.batch_size) == ("first and linked", llama_folder, 4)


def test_a_shared_engine_is_closed_with_the_last_of_its_names(llama_folder, adapters):
    engines, _ = open_engines(pair(llama_folder, *adapters))
    shared = engines["a"].engine
    engines["a"].close()
    engines["a"].close()
    assert engines["b"].answer_logprobs(QUESTIONS) and shared.model is not None
    engines["b"].close()
    assert shared.model is None
    both = open_engines(pair(llama_folder, None, None))[0]
    for engine in both.values():  # the same one
        engine.close()


@pytest.mark.slow
def test_beside_another_model_they_share_a_process(llama_folder, adapters, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    shutil.copytree(llama_folder, tmp_path / "other")
    sources = [Source("c", tmp_path / "other", Load(), 16), *pair(llama_folder, *adapters)]
    sources = [sources[1], sources[0], sources[2]]
    engines, side_by_side = open_engines(sources)
    assert list(engines) == ["a", "c", "b"] and not side_by_side
    assert isinstance(engines["c"], ProcessEngine) and isinstance(engines["a"], AdapterEngine)
    assert engines["a"].engine is engines["b"].engine and engines["a"].engine.name == "a and b"
    apart = {source.name: open_engine(source) for source in sources}
    assert talk({name: engines[name] for name in "ab"}, tmp_path / "shared") == talk(
        {name: apart[name] for name in "ab"}, tmp_path / "apart"
    )
    assert engines["a"].context_tokens == apart["a"].context_tokens
    assert engines["b"].lengths(QUESTIONS[0]) == apart["b"].lengths(QUESTIONS[0])
    for engine in engines.values():
        engine.close()
    assert not engines["a"].engine._process.is_alive()


def test_shared_weights_are_placed_once(llama_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("expertchat.engine.opening.WORKING_TOKENS", 16)
    shutil.copytree(llama_folder, tmp_path / "other")
    sources = [*pair(llama_folder, None, None), Source("c", tmp_path / "other", Load(), 4)]
    groups = [as_one_source(group) for group in group_by_weights(sources)]
    devices, side_by_side = place_on_gpus(groups, [10**9] * 2)
    assert side_by_side and list(devices) == ["a and b", "c"]
    assert [set(placed.values()) for placed in devices.values()] == [{0}, {1}]


def test_engines_that_take_turns_divide_the_memory_for_conversations(
    llama_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(batches, "_host_free_bytes", lambda: 10**9)
    shutil.copytree(llama_folder, tmp_path / "other")
    sources = pair(llama_folder, None, None)
    alone = open_engines(sources[:1])[0]["a"].sessions.budget
    assert alone == local.SESSION_SHARE * 10**9
    two, _ = open_engines([sources[0], replace(sources[1], folder=tmp_path / "other")])
    assert sum(engine.sessions.budget for engine in two.values()) == alone


class Reporting:
    """An engine whose context is the free memory, as a process sees it."""

    def __init__(self):
        batches._host_free_bytes = lambda: 1000
        model = type("Model", (), {"parameters": lambda self: []})()
        self.context_tokens = batches.free_bytes(model)


def open_reporting(source, placement):
    return Reporting()


@pytest.mark.slow
def test_processes_that_work_at_the_same_time_divide_the_memory(llama_folder):
    source = Source("a", llama_folder, Load(), 4)
    engine = ProcessEngine(source, None, 1, open_reporting, processes=2)
    assert engine.context_tokens == 500
    engine.close()
