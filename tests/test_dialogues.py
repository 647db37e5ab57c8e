"""Dialogues of real models: the order of speakers, candidates, and resuming after an interruption."""

import pytest
from expertchat.checkpoints import Checkpoints, numbered
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.dialogues.contexts import Context, context_messages, contexts_of
from expertchat.dialogues.talk import create_dialogues, make_turn, run_dialogues, shard_of
from expertchat.engine.interface import Pieces
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
ONCE = SETTINGS.model_copy(update={"seeds_per_topic": 1})


def test_each_model_opens_half_of_the_dialogues():
    openers = [d["speakers"][0] for d in create_dialogues(TOPICS * 2, "ab", SETTINGS)]
    assert openers.count("a") == openers.count("b") == 6


def test_a_context_knows_who_is_to_speak():
    dialogue = create_dialogues(TOPICS, "ab", ONCE)[1]  # opened by b
    assert [Context(dialogue, turn).speaker for turn in range(3)] == ["b", "a", "b"]
    spoken = [d | {"turns": [{}] * 3} for d in create_dialogues(TOPICS, "ab", SETTINGS)]
    found = contexts_of(spoken, "a", "train", [1, 7])
    assert len(found) == 2 and all(c.dialogue["speakers"][1] == "a" for c in found)


def test_a_prompt_contains_only_the_turns_before():
    dialogue = create_dialogues(TOPICS, "ab", ONCE)[0]
    dialogue["turns"] = [{"speaker": "a", "text": "one"}, {"speaker": "b", "text": "two"}]
    text = str(context_messages(Context(dialogue, 1), TEXTS))
    assert "bread 0" in text and "one" in text and "two" not in text


@pytest.fixture(scope="module")
def engines(llama_folder):
    return {name: LocalEngine(llama_folder, Load(), 4) for name in "ab"}


def run(engines, folder, settings=SETTINGS):
    out, checkpoints = folder / "out", folder / "checkpoints"
    out.mkdir(exist_ok=True, parents=True)
    checkpoints.mkdir(exist_ok=True)
    begun = create_dialogues(TOPICS, "ab", settings)
    run_dialogues(engines, begun, settings, TEXTS, 0, checkpoints, out)
    return read_records(out / DIALOGUES), read_records(out / CANDIDATES)


def test_dialogues_and_candidates_of_two_models(engines, tmp_path):
    dialogues, candidates = run(engines, tmp_path)
    assert len(dialogues) == 6
    for dialogue in dialogues:
        speakers = [turn["speaker"] for turn in dialogue["turns"]]
        assert speakers == [*dialogue["speakers"], dialogue["speakers"][0]]
        assert all(turn["finish_reason"] in ("stop", "length") for turn in dialogue["turns"])
        assert all(turn["tokens"] <= 6 for turn in dialogue["turns"])
    assert len(candidates) == 12 and {c["turn"] for c in candidates} == {1}
    assert len({c["candidate_id"] for c in candidates}) == 12
    assert len({c["text"] for c in candidates}) > 6  # candidates differ


def test_an_interrupted_job_resumes_after_its_last_finished_turn(engines, tmp_path):
    whole = run(engines, tmp_path / "whole")

    class Dies:
        """An engine that is killed in the third turn."""

        pieces = Pieces(64, 1000)

        def __init__(self, engine):
            self.engine, self.calls = engine, 0

        def generate(self, *arguments):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return self.engine.generate(*arguments)

    broken = {"a": Dies(engines["a"]), "b": engines["b"]}
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "broken")
    turns = Checkpoints(tmp_path / "broken/checkpoints/turns")
    assert turns.names() == [numbered(1), numbered(2)]  # after so many turns
    # a damaged checkpoint is not used: the one before it is
    (turns.folder / numbered(2) / "dialogues.jsonl").write_text("")
    assert run(engines, tmp_path / "broken") == whole


def test_shards_and_threads_give_the_same_dialogues(engines, tmp_path):
    whole = run(engines, tmp_path / "whole")
    begun = create_dialogues(TOPICS, "ab", SETTINGS)
    dialogues, candidates = [], []
    for shard in range(16):  # more than there are dialogues
        out, checkpoints = tmp_path / f"{shard}/out", tmp_path / f"{shard}/checkpoints"
        out.mkdir(parents=True)
        checkpoints.mkdir()
        part = shard_of(begun, shard, 16)
        run_dialogues(engines, part, SETTINGS, TEXTS, 0, checkpoints, out, side_by_side=shard % 2 > 0)
        dialogues += read_records(out / DIALOGUES)
        candidates += read_records(out / CANDIDATES)
    for ours, theirs, key in zip(
        (dialogues, candidates), whole, ("dialogue_id", "candidate_id"), strict=True
    ):
        assert sorted(ours, key=lambda r: r[key]) == sorted(theirs, key=lambda r: r[key])


def test_shards_are_contiguous_and_both_models_open_in_each():
    begun = create_dialogues(TOPICS * 8, "ab", SETTINGS)
    for shards in (2, 3, 4, 16):
        parts = [shard_of(begun, shard, shards) for shard in range(shards)]
        assert [d for part in parts for d in part] == begun
        if shards < 16:
            assert all({d["speakers"][0] for d in part} == {"a", "b"} for part in parts)


def test_a_model_talks_with_itself_from_two_seats(engines, tmp_path):
    begun = create_dialogues(TOPICS, "aa", SETTINGS)
    assert begun[0]["speakers"] == ["a-1", "a-2"] and begun[1]["speakers"] == ["a-2", "a-1"]
    assert begun[0]["models"] == {"a-1": "a", "a-2": "a"}
    (tmp_path / "checkpoints").mkdir()
    run_dialogues({"a": engines["a"]}, begun, SETTINGS, TEXTS, 0, tmp_path / "checkpoints", tmp_path)
    for dialogue in read_records(tmp_path / DIALOGUES):
        assert [turn["speaker"] for turn in dialogue["turns"]][:2] == dialogue["speakers"]
    assert {c["model"] for c in read_records(tmp_path / CANDIDATES)} == {"a"}
    assert len(contexts_of(read_records(tmp_path / DIALOGUES), "a", "train", [1])) == 4


def test_roles_belong_to_seats_and_the_opening_seat_has_the_first():
    settings = ONCE.model_copy(update={"roles": ["asks", "answers"]})
    texts = {"asks": "You ask about {{ topic }}.", "answers": "You answer.", "opening": "Begin."}
    first, second = create_dialogues(TOPICS, "ab", settings)[:2]
    assert context_messages(Context(first, 0), texts)[0]["content"] == "You ask about bread 0."
    assert Context(first, 0).model == "a" and Context(second, 0).model == "b"
    first["turns"] = [{"speaker": "a", "text": "why?"}]
    assert context_messages(Context(first, 1), texts)[0]["content"] == "You answer."
    fixed = settings.model_copy(update={"swap": False})
    assert {d["speakers"][0] for d in create_dialogues(TOPICS, "ab", fixed)} == {"a"}


ROLES = ["speaker", "interviewer", "interviewee", "proponent", "opponent", "impostor", "detective"]


@pytest.mark.parametrize("role", [*ROLES, "colleague"])
def test_speakers_are_told_what_an_expert_would_know_where_a_topic_says_it(root, role):
    texts = {path.stem: path.read_text(encoding="utf-8") for path in root.glob("config/prompts/*.jinja")}
    settings = ONCE.model_copy(update={"roles": [role, role]})
    noted = TOPICS[0] | {"note": "Rye has little gluten."}
    with_note, without = create_dialogues([noted, TOPICS[1]], "ab", settings)
    assert with_note["note"] == "Rye has little gluten." and without["note"] == ""
    brief = context_messages(Context(with_note, 0), texts)[0]["content"]
    assert brief.count("\nAn expert would know: Rye has little gluten.\n") == 1
    del without["note"]  # as in transcripts
    plain = context_messages(Context(without, 0), texts)[0]["content"]
    assert "An expert would know" not in plain and "\n\n\n" not in plain


def test_the_demos_prompts_have_no_note(root):
    texts = {
        path.stem: path.read_text(encoding="utf-8") for path in root.glob("config/prompts/demo/*.jinja")
    }
    (dialogue,) = create_dialogues([TOPICS[0] | {"note": "Rye has little gluten."}], "ab", ONCE)
    assert context_messages(Context(dialogue, 0), texts) == [
        {
            "role": "system",
            "content": "Subject: x. Topic: bread 0. Convince the other that you are a human expert.",
        },
        {"role": "user", "content": "Please begin."},
    ]


def test_a_turn_that_was_cut_off_is_flagged_and_trimmed_to_its_last_sentence():
    reply = {"text": "I bake. As an AI, I like", "tokens": 9, "finish_reason": "length"}
    turn = make_turn(reply, SETTINGS, [])
    assert (turn["text"], turn["cut"]) == ("I bake.", " As an AI, I like")
    assert turn["flags"] == ["truncated", "persona_break"]
    kept = make_turn(reply, SETTINGS.model_copy(update={"trim": False}), [])
    assert (kept["text"], kept["cut"]) == (reply["text"], "") and kept["flags"] == turn["flags"]
    whole = make_turn({"text": "I bake.", "tokens": 3, "finish_reason": "sentence"}, SETTINGS, ["No."])
    assert (whole["text"], whole["cut"], whole["flags"]) == ("I bake.", "", [])
    assert make_turn(reply | {"text": "", "finish_reason": "stop"}, SETTINGS, [])["flags"] == ["empty"]


def test_a_dialogue_ends_when_its_tokens_are_spent(engines, tmp_path):
    dialogues, _ = run(engines, tmp_path, SETTINGS.model_copy(update={"max_tokens": 8}))
    for dialogue in dialogues:
        tokens = [turn["tokens"] for turn in dialogue["turns"]]
        assert sum(tokens[:-1]) < 8 and (len(tokens) == 3 or sum(tokens) >= 8)
    assert {len(d["turns"]) for d in dialogues} >= {2}
