"""Instruction data sets: five formats as conversations, invalid records, and the held-out prompts."""

import gzip
import json
import os
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.instructions.records import read_instructions, split_conversations
from hypothesis import given, settings
from hypothesis import strategies as st

DATA = os.environ.get("EXPERTCHAT_DATA")


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def save(path, records):
    """An array or lines, as the file's name says."""
    if ".jsonl" in path.name:
        text = "\n".join(map(json.dumps, records))
    else:
        text = "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


HC3 = {
    "question": "Why rye?",
    "human_answers": ["It keeps.", "", "Taste."],
    "chatgpt_answers": ["Rye bread has several advantages."],
    "source": "bread",
}
BY_HUMANS = [[user("Why rye?"), assistant("It keeps.")], [user("Why rye?"), assistant("Taste.")]]
BY_CHATGPT = [[user("Why rye?"), assistant("Rye bread has several advantages.")]]
EVOL = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
TALK = [user("Hello."), assistant("Hi."), user("Why rye?"), assistant("It keeps.")]

KNOWN = [
    (
        "alpaca",
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        [[user("Add.\n\n1, 2"), assistant("3")]],
    ),
    (
        "alpaca",
        {"instruction": " Sing. ", "input": " \n", "output": "\nLa,\n la. \n"},
        [[user("Sing."), assistant("La,\n la.")]],
    ),
    (
        "dolly",
        {"instruction": "Who?", "context": "Ann bakes.", "response": "Ann.", "category": "closed_qa"},
        [[user("Who?\n\nAnn bakes."), assistant("Ann.")]],
    ),
    (
        "dolly",
        {"instruction": "Who?", "context": "", "response": "I."},
        [[user("Who?"), assistant("I.")]],
    ),
    ("hc3", HC3, BY_HUMANS + BY_CHATGPT),
    ("evol-instruct", {"instruction": "Why?", "output": "So."}, [[user("Why?"), assistant("So.")]]),
    ("evol-instruct", {"conversations": EVOL, "idn": "x"}, [[user("Why?"), assistant("So.")]]),
    ("evol-instruct", {"conversations": EVOL * 2}, [[user("Why?"), assistant("So.")] * 2]),
    ("messages", {"messages": TALK}, [TALK]),
    ("messages", {"messages": [system("You bake."), *TALK], "id": 7}, [[system("You bake."), *TALK]]),
    ("messages", {"messages": [system(" "), *TALK]}, [TALK]),
]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "json.gz", "jsonl.gz"])
@pytest.mark.parametrize(("format", "record", "conversations"), KNOWN)
def test_a_record_becomes_conversations(tmp_path, format, record, conversations, suffix):
    found = read_instructions(save(tmp_path / f"a.{suffix}", [record]), format)
    assert found.conversations == conversations
    assert (found.records, found.faults, found.duplicates, found.unanswered) == (1, [], 0, 0)


@pytest.mark.parametrize(
    ("answers", "conversations"),
    [("human", BY_HUMANS), ("chatgpt", BY_CHATGPT), ("both", BY_HUMANS + BY_CHATGPT)],
)
def test_hc3_has_answers_of_two_kinds(tmp_path, answers, conversations):
    path = save(tmp_path / "a.jsonl", [HC3])
    assert read_instructions(path, "hc3", answers).conversations == conversations


def test_a_question_without_the_wanted_answers_is_counted_and_no_fault(tmp_path):
    path = save(
        tmp_path / "a.jsonl", [HC3, HC3 | {"chatgpt_answers": []}, HC3 | {"chatgpt_answers": [" "]}]
    )
    found = read_instructions(path, "hc3", "chatgpt")
    assert found.conversations == BY_CHATGPT
    assert (found.records, found.faults, found.duplicates, found.unanswered) == (3, [], 0, 2)


def test_equal_conversations_are_kept_once_in_the_order_of_the_file(tmp_path):
    records = [{"instruction": "Why?", "output": text} for text in ("B", "A", " B\n", "C", "A", "A")]
    found = read_instructions(save(tmp_path / "a.json", records), "evol-instruct")
    assert [answer["content"] for _, answer in found.conversations] == ["B", "A", "C"]
    assert (found.records, found.duplicates) == (6, 3)


GOOD = {"instruction": "Add.", "input": "1, 2", "output": "3"}
LATE = [*TALK[:2], system("You bake."), *TALK[2:]]
EVOL_TWICE = [*EVOL, {"from": "gpt", "value": "."}]


@pytest.mark.parametrize(
    ("format", "record", "fault"),
    [
        ("alpaca", ["Add."], ': expected an object, not ["Add."]'),
        ("alpaca", {"instruction": "Add.", "output": "3"}, ": input is missing"),
        ("alpaca", GOOD | {"input": None}, ": input is null; it must be a string"),
        ("alpaca", GOOD | {"output": 3}, ": output is 3; it must be a string"),
        ("alpaca", GOOD | {"instruction": " \n"}, ": instruction is empty"),
        ("alpaca", GOOD | {"output": ""}, ": output is empty"),
        ("dolly", {"instruction": "Who?", "context": "", "response": ""}, ": response is empty"),
        ("dolly", {"instruction": "Who?", "response": "I."}, ": context is missing"),
        ("hc3", HC3 | {"question": ""}, ": question is empty"),
        ("hc3", HC3 | {"human_answers": "No."}, ': human_answers is "No."; it must be a list'),
        ("hc3", HC3 | {"chatgpt_answers": ["A", 7]}, ": answer 2 of chatgpt_answers is 7; it must be a"),
        ("evol-instruct", {"instruction": "Why?", "output": " "}, ": output is empty"),
        (
            "evol-instruct",
            {"conversations": EVOL_TWICE},
            ": the roles are user, assistant, assistant; af",
        ),
        (
            "evol-instruct",
            {"conversations": [{"from": "bot", "value": "Why?"}]},
            ', message 1: from is "bot"; known: human, gpt',
        ),
        (
            "messages",
            {"messages": []},
            ": the roles are none; after an optional system message, user and ",
        ),
        ("messages", {"messages": [system("You bake.")]}, ": the roles are system; after"),
        ("messages", {"messages": TALK[:3]}, ": the roles are user, assistant, user; after"),
        ("messages", {"messages": TALK[1:]}, ": the roles are assistant, user, assistant; after"),
        (
            "messages",
            {"messages": [*TALK[:1] * 2, *TALK[1:2] * 2]},
            ": the roles are user, user, assista",
        ),
        (
            "messages",
            {"messages": LATE},
            ": the roles are user, assistant, system, user, assistant; after",
        ),
        ("messages", {"messages": [TALK[0], assistant("")]}, ", message 2: content is empty"),
        ("messages", {"messages": [TALK[0], assistant(None)]}, ", message 2: content is null; it must"),
        ("messages", {"messages": [TALK[0], "Hi."]}, ', message 2: expected an object, not "Hi."'),
        (
            "messages",
            {"messages": [{"role": "tool"}]},
            ', message 1: role is "tool"; known: system, user',
        ),
    ],
)
def test_an_invalid_record_is_left_out_and_its_fault_is_named(tmp_path, format, record, fault):
    valid, conversations = next(known[1:] for known in KNOWN if known[0] == format)
    for place in ("a.json, line 3, record 2", "a.jsonl, line 2"):
        path = save(tmp_path / place.split(",")[0], [valid, record])
        found = read_instructions(path, format, most_faults=0.5)
        assert (found.conversations, found.records) == (conversations, 2)
        (said,) = found.faults
        assert said.startswith(f"{tmp_path}/{place}{fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '{"instruction": "Add.", "instruction": "", "input": "", "output": "3"}',
            "instruction: this key",
        ),
        ('{"instruction": "Add.", "input": "", "output": "\\ud800"}', "\\ud800 without its other half"),
        ('{"instruction": "Add.", "input": "", "output": NaN}', "NaN is not JSON"),
        (f'{{"output": {"9" * 5000}}}', "a number of 5,000 digits"),
    ],
)
def test_a_record_that_cannot_be_used_does_not_spoil_the_file(tmp_path, text, fault):
    valid = json.dumps(GOOD, indent=1)
    (tmp_path / "a.json").write_text(f"[{valid},\n\n {text} ,{valid}]", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(GOOD)}\n\n{text}\n", encoding="utf-8")
    for place in ("a.json, line 7, record 2", "a.jsonl, line 3"):
        path = tmp_path / place.split(",")[0]
        found = read_instructions(path, "alpaca", most_faults=0.5)
        assert found.conversations == [[user("Add.\n\n1, 2"), assistant("3")]]
        assert found.faults[0].startswith(f"{tmp_path}/{place}: {fault}")


def test_a_line_that_is_no_json_is_a_fault(tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{json.dumps(GOOD)}\n{{"instruction": \n', encoding="utf-8")
    (fault,) = read_instructions(tmp_path / "a.jsonl", "alpaca", most_faults=0.5).faults
    assert fault == f"{tmp_path}/a.jsonl, line 2, column 16: not valid JSON: Expecting value"


def test_more_than_one_percent_of_faults_is_an_error(tmp_path):
    records = [GOOD | {"output": str(number)} for number in range(400)]
    for number in (10, 20, 30, 399):
        records[number] = GOOD | {"output": ""}
    found = read_instructions(save(tmp_path / "a.jsonl", records), "alpaca")
    assert (len(found.conversations), len(found.faults)) == (396, 4)
    records[200] = 7
    path = save(tmp_path / "a.jsonl", records)
    with pytest.raises(UserError) as caught:
        read_instructions(path, "alpaca")
    assert str(caught.value).split("\n") == [
        f"{path}: 5 of 400 records (1.25%) are invalid as alpaca; at most 1.00% may be. The first:",
        f"  {path}, line 11: output is empty",
        f"  {path}, line 21: output is empty",
        f"  {path}, line 31: output is empty",
    ]
    assert len(read_instructions(path, "alpaca", most_faults=0.0125).faults) == 5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "x", "a.csv: unknown file type; records are read from .json, .jsonl, .json.gz"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "a.json, line 2, column 7: not valid JSON: Expecting ':'"),
        ("a.json", "[7\n 7]", "a.json, line 2, column 2: not valid JSON: Expecting ',' delimiter"),
        ("a.json", "[7,\n", "a.json, column 4: not valid JSON"),
        ("a.json", "[7", "a.json, column 3: not valid JSON: Expecting ',' delimiter"),
        ("a.json", "[7,]", "a.json, column "),
        ("a.json", "[7]\n]", "a.json, line 2, column 1: not valid JSON: Extra data"),
        ("a.json", "[" * 10**6, "a.json: its values are nested too deeply"),
        (
            "a.json",
            '{"instruction": "Add."}\n',
            "a.json: not a JSON array of records; with a record per",
        ),
        ("a.json", "", "a.json: not a JSON array of records"),
        ("a.json", " [ ] ", "a.json: contains no conversation"),
        ("a.jsonl", "\n \n", "a.jsonl: contains no conversation"),
        ("a.jsonl", "[\n", "a.jsonl: 1 of 1 records (100.00%) are invalid as alpaca; at most 1.00%"),
        ("a.json.gz", "[]", "a.json.gz: not a valid gzip file"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_is_an_error(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_instructions(tmp_path / name, "alpaca")
    assert str(caught.value).startswith(f"{tmp_path}/{words}")


def test_unknown_names_and_files_are_errors(tmp_path):
    path = save(tmp_path / "a.jsonl", [HC3])
    with pytest.raises(
        UserError, match="unknown format 'hc4' of instructions; known: alpaca, dolly, hc3"
    ):
        read_instructions(path, "hc4")
    with pytest.raises(UserError, match="unknown answers 'all' of HC3; known: human, chatgpt, both"):
        read_instructions(path, "hc3", "all")
    with pytest.raises(UserError, match=r"b\.json: No such file"):
        read_instructions(tmp_path / "b.json", "hc3")


def answered(prompt, answer="So."):
    return [user(prompt), assistant(answer)]


@settings(deadline=None)  # the time of an example says nothing on a busy machine
@given(
    prompts=st.lists(st.text("ab ", min_size=1, max_size=4)),
    share=st.floats(0, 1),
    less=st.floats(0, 1),
    seed=st.integers(),
)
def test_equal_prompts_stand_on_one_side(prompts, share, less, seed):
    conversations = [answered(prompt, str(number)) for number, prompt in enumerate(prompts)]
    train, held_out = split_conversations(conversations, share, seed)
    assert sorted(train + held_out, key=conversations.index) == conversations
    assert [train, held_out] == [sorted(side, key=conversations.index) for side in (train, held_out)]
    words = [{tuple(prompt["content"].split()) for prompt, _ in side} for side in (train, held_out)]
    assert not words[0] & words[1]
    # neither the other conversations nor a larger share move a held-out prompt to the other side
    for conversation in held_out:
        assert split_conversations([conversation], share, seed) == ([], [conversation])
    assert all(part in held_out for part in split_conversations(conversations, share * less, seed)[1])


def test_the_share_of_the_prompts_is_held_out_as_the_seed_says():
    conversations = [[system("You bake."), *answered(f"Question {n}")] for n in range(10_000)]
    sides = [split_conversations(conversations, 0.1, seed)[1] for seed in (0, 0, 1)]
    assert all(900 < len(side) < 1100 for side in sides)  # 1,000 ± 30
    assert sides[0] == sides[1] != sides[2]
    assert split_conversations(conversations, 0, 0) == (conversations, [])
    assert split_conversations(conversations, 1, 0) == ([], conversations)


def test_the_split_stays_as_it_is():
    """Other prompts on the held-out side would make old and new results incomparable."""
    conversations = [answered(prompt) for prompt in "abcdefghijkl"]
    _, held_out = split_conversations(conversations, 0.5, 0)
    assert "".join(prompt["content"] for prompt, _ in held_out) == "abegijl"


@pytest.mark.skipif(DATA is None, reason="EXPERTCHAT_DATA names no data")
def test_the_real_file_is_read_whole():
    path = Path(DATA) / "alpaca-1000.json"
    found = read_instructions(path, "alpaca")
    assert (found.records, len(found.conversations)) == (1000, 1000)
    assert (found.duplicates, found.faults, found.unanswered) == (0, [], 0)
    texts = [text for record in json.loads(path.read_bytes()) for text in record.values()]
    said = [message["content"] for conversation in found.conversations for message in conversation]
    assert sum(map(len, said)) == sum(map(len, texts)) + 2 * 242  # records with an input
    train, held_out = split_conversations(found.conversations, 0.05, 0)
    assert (len(train), len(held_out)) == (945, 55)
