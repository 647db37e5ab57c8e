"""Dialogues on real models: who speaks when, candidates, and going on after an interruption."""

import pytest
from expertchat.dialogues import (
    CANDIDATES,
    DIALOGUES,
    Context,
    begin_dialogues,
    context_messages,
    contexts_of,
    hold_dialogues,
)
from expertchat.engine.local import LocalEngine
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.models import Load

TEXTS = {"speaker": "Topic: {{ topic }}", "opening": "Please begin."}
TOPICS = [
    {"topic_id": f"x-{i}", "topic": f"bread {i}", "subject": "x", "split": split}
    for i, split in enumerate(["train", "train", "held_out"])
]
SETTINGS = Dialogues(
    turns=3, seeds_per_topic=2, candidate_turns=[1], candidates=2, decoding=Decoding(max_new_tokens=6)
)


def test_each_model_opens_half_of_the_time():
    openers = [d["speakers"][0] for d in begin_dialogues(TOPICS * 2, "ab", 2)]
    assert openers.count("a") == openers.count("b") == 6


def test_a_context_knows_who_is_to_speak():
    dialogue = begin_dialogues(TOPICS, "ab", 1)[1]  # opened by b
    assert [Context(dialogue, turn).speaker for turn in range(3)] == ["b", "a", "b"]
    found = contexts_of(begin_dialogues(TOPICS, "ab", 2), "a", "train", [1])
    assert len(found) == 2 and all(c.dialogue["speakers"][1] == "a" for c in found)


def test_a_prompt_holds_the_turns_before_and_no_other():
    dialogue = begin_dialogues(TOPICS, "ab", 1)[0]
    dialogue["turns"] = [{"speaker": "a", "text": "one"}, {"speaker": "b", "text": "two"}]
    text = str(context_messages(Context(dialogue, 1), TEXTS))
    assert "bread 0" in text and "one" in text and "two" not in text


@pytest.fixture(scope="module")
def engines(llama_folder):
    return {name: LocalEngine(llama_folder, Load(), 4) for name in "ab"}


def hold(engines, folder, settings=SETTINGS):
    out, checkpoints = folder / "out", folder / "checkpoints"
    out.mkdir(exist_ok=True, parents=True)
    checkpoints.mkdir(exist_ok=True)
    hold_dialogues(engines, TOPICS, settings, TEXTS, 0, checkpoints, out)
    return read_records(out / DIALOGUES), read_records(out / CANDIDATES)


def test_dialogues_and_candidates_of_two_models(engines, tmp_path):
    dialogues, candidates = hold(engines, tmp_path)
    assert len(dialogues) == 6
    for dialogue in dialogues:
        speakers = [turn["speaker"] for turn in dialogue["turns"]]
        assert speakers == [*dialogue["speakers"], dialogue["speakers"][0]]
        assert all(turn["finish_reason"] in ("stop", "length") for turn in dialogue["turns"])
        assert all(turn["tokens"] <= 6 for turn in dialogue["turns"])
    assert len(candidates) == 12 and {c["turn"] for c in candidates} == {1}
    assert len({c["candidate_id"] for c in candidates}) == 12
    assert len({c["text"] for c in candidates}) > 6  # candidates differ


def test_an_interrupted_job_goes_on_from_its_last_turn(engines, tmp_path):
    whole = hold(engines, tmp_path / "whole")

    class Dies:
        """An engine that is killed in the third turn."""

        def __init__(self, engine):
            self.engine, self.calls = engine, 0

        def generate(self, *arguments):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return self.engine.generate(*arguments)

    broken = {"a": Dies(engines["a"]), "b": engines["b"]}
    with pytest.raises(KeyboardInterrupt):
        hold(broken, tmp_path / "broken")
    made = sorted(p.name for p in (tmp_path / "broken/checkpoints").iterdir())
    assert made == ["0.candidates.jsonl", "0.dialogues.jsonl", "1.candidates.jsonl", "1.dialogues.jsonl"]
    assert hold(engines, tmp_path / "broken") == whole
