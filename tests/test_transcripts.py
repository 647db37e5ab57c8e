"""Conversations from elsewhere become dialogue records."""

import json
from pathlib import Path

import pytest
from expertchat.dialogues.text_files import parse_text
from expertchat.dialogues.transcripts import flag_turns, read_transcripts
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.records import write_records


def message(role, content):
    return {"role": role, "content": content}


SIDE_A = [
    message("system", "You are A."),
    message("user", "Begin."),
    message("assistant", "Rye is best."),
    message("user", "Why rye?"),
    message("assistant", "It keeps."),
]
SIDE_B = [
    message("system", "You are B."),
    message("user", "Rye is best."),
    message("assistant", "Why rye?"),
    message("user", "It keeps."),
    message("assistant", "So does spelt."),
]


def save(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def said(record):
    return [(turn["speaker"], turn["text"]) for turn in record["turns"]]


def test_one_side_of_a_conversation(tmp_path):
    assert read_transcripts(save(tmp_path / "bread.json", SIDE_B)) == [
        {
            "dialogue_id": "bread",
            "topic_id": "bread",
            "topic": "",
            "subject": "imported",
            "split": "held_out",
            "speakers": ["user", "assistant"],
            "models": {"user": "user", "assistant": "assistant"},
            "turns": [
                {"speaker": speaker, "text": text, "tokens": None, "finish_reason": None}
                for speaker, text in [
                    ("user", "Rye is best."),
                    ("assistant", "Why rye?"),
                    ("user", "It keeps."),
                    ("assistant", "So does spelt."),
                ]
            ],
            "brief": {"assistant": "You are B."},
            "disagreements": [],
        }
    ]


WHOLE = [("a", "Rye is best."), ("b", "Why rye?"), ("a", "It keeps."), ("b", "So does spelt.")]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_two_sides_give_one_dialogue_without_the_opening_prompt(tmp_path, names):
    """Also if the order of files is not that of the speakers, and one side ends a turn earlier."""
    label = dict(zip("ab", names, strict=True))
    save(tmp_path / f"bread.{label['a']}.json", SIDE_A)
    save(tmp_path / f"bread.{label['b']}.json", SIDE_B)
    (record,) = read_transcripts(tmp_path)
    assert record["dialogue_id"] == "bread"
    assert record["speakers"] == [label["a"], label["b"]]
    assert said(record) == [(label[speaker], text) for speaker, text in WHOLE]
    assert record["brief"] == {label["a"]: "You are A.", label["b"]: "You are B."}
    assert record["disagreements"] == []


def test_if_sides_disagree_the_speakers_own_text_counts(tmp_path):
    heard = [*SIDE_B[:3], message("user", "It keeps [cut]"), SIDE_B[4]]
    save(tmp_path / "bread.a.json", SIDE_A)
    save(tmp_path / "bread.b.json", heard)
    (record,) = read_transcripts(tmp_path)
    assert said(record) == WHOLE
    assert record["disagreements"] == [
        {"turn": 2, "speaker": "a", "said": "It keeps.", "heard": "It keeps [cut]"}
    ]
    spaced = [*SIDE_B[:3], message("user", " It\n keeps. "), SIDE_B[4]]
    save(tmp_path / "bread.b.json", spaced)
    assert read_transcripts(tmp_path)[0]["disagreements"] == []


def test_an_opening_that_both_sides_have_is_a_turn(tmp_path):
    """Speaker b spoke first without being prompted to, and side a answers."""
    save(tmp_path / "bread.a.json", [message("user", "Hello."), message("assistant", "Hi.")])
    opened = [message("user", "Begin."), message("assistant", "Hello."), message("user", "Hi.")]
    save(tmp_path / "bread.b.json", opened)
    (record,) = read_transcripts(tmp_path)
    assert said(record) == [("b", "Hello."), ("a", "Hi.")]


def test_files_that_are_not_two_sides_are_rejected(tmp_path):
    save(tmp_path / "bread.a.json", SIDE_A)
    for other in (
        SIDE_A,
        [message("user", "Wine?"), message("assistant", "Beer."), message("user", "No.")],
    ):
        save(tmp_path / "bread.b.json", other)
        with pytest.raises(UserError, match=r"bread.a.json and .*bread.b.json: not the two sides"):
            read_transcripts(tmp_path)
    for wrong, reason in (
        (7, "expected a list of messages"),
        ([SIDE_B, SIDE_B], "found 2"),
        (OWN, "has no list under messages"),
    ):
        save(tmp_path / "bread.b.json", wrong)
        with pytest.raises(UserError, match=f"bread.b.json.*{reason}"):
            read_transcripts(tmp_path)
    save(tmp_path / "bread.c.json", SIDE_B)
    with pytest.raises(UserError, match="bread has files of 3 sides"):
        read_transcripts(tmp_path)


def test_lists_lines_and_a_folder_of_them(tmp_path):
    save(tmp_path / "many.json", [SIDE_A, {"messages": SIDE_B, "topic": "bread", "model": "llama"}])
    lines = [
        {"conversation": SIDE_B[1:], "model": "vicuna", "split": "train", "subject": "baking"},
        {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes?"}]},
        SIDE_B,
    ]
    write_records(tmp_path / "rows.jsonl", lines)
    many, rows = (read_transcripts(tmp_path / name) for name in ("many.json", "rows.jsonl"))
    assert [record["dialogue_id"] for record in many] == ["many/0", "many/1"]
    assert (many[1]["topic"], many[1]["speakers"]) == ("bread", ["user", "llama"])
    assert (rows[0]["subject"], rows[0]["split"]) == ("baking", "train")
    assert rows[0]["models"] == {"user": "user", "vicuna": "vicuna"}
    assert said(rows[1]) == [("user", "Hi."), ("assistant", "Yes?")]
    assert read_transcripts(tmp_path) == [*many, *rows]


OWN = {
    "dialogue_id": "bread/s0",
    "topic": "bread",
    "speakers": ["mixtral", "llama"],
    "turns": [
        {"speaker": "mixtral", "text": "Hi.", "tokens": 2, "finish_reason": "stop"},
        {"speaker": "llama", "text": "Hello."},
    ],
}


def test_dialogue_records_are_imported_unchanged(tmp_path):
    write_records(tmp_path / "own.jsonl", [OWN])
    (record,) = read_transcripts(tmp_path / "own.jsonl")
    assert {key: record[key] for key in ("dialogue_id", "topic", "speakers")} == {
        key: OWN[key] for key in ("dialogue_id", "topic", "speakers")
    }
    assert record["turns"][0] == OWN["turns"][0]
    assert record["turns"][1]["tokens"] is None
    record |= {"brief": {"llama": "Be brief."}, "disagreements": [{"turn": 0}], "split": "train"}
    write_records(tmp_path / "again.jsonl", [record])
    assert read_transcripts(tmp_path / "again.jsonl") == [record]


def test_adjacent_messages_of_one_role_are_one_turn(tmp_path):
    messages = [message("user", "Hi."), message("user", "There?"), message("assistant", "Yes.")]
    (record,) = read_transcripts(save(tmp_path / "x.json", messages))
    assert said(record) == [("user", "Hi.\n\nThere?"), ("assistant", "Yes.")]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([SIDE_A, 7], "line 2: expected a list of messages or an object, not 7"),
        (["{"], "line 1: expected a list of messages or an object"),
        ([SIDE_A, {"text": "x"}], "line 2: has no list under messages, conversation"),
        ([[message("user", "x"), message("tool", "y")]], 'line 1, message 2: unknown role "tool"'),
        ([[message("user", None)]], "line 1, message 1: content is null"),
        ([[message("user", "x"), "y"]], 'line 1, message 2: expected an object, not "y"'),
        ([[*SIDE_A, message("system", "z")]], "line 1, message 6: a system message after"),
        ([[message("user", "x")]], "line 1: a dialogue needs turns of two speakers; found 1"),
        ([{"messages": SIDE_A, "split": "test"}], 'line 1: split is "test"; it must be train or'),
        ([{"messages": SIDE_A, "topic": 3}], "line 1: topic is 3; it must be a string"),
        ([OWN | {"speakers": ["a"]}], "line 1: speakers must be a list of two names"),
        (
            [OWN | {"turns": OWN["turns"][1:]}],
            'line 1, turn 0: the speaker is "llama"; speakers alternate',
        ),
        ([OWN | {"brief": "x"}], 'line 1: brief must map speakers to texts, not "x"'),
        ([OWN | {"turns": ["x"]}], "line 1, turn 0: expected an object with speaker and text"),
        ([OWN, OWN], "several conversations have the dialogue_id bread/s0"),
        ([], "contains no conversation"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(tmp_path, lines, reason):
    write_records(tmp_path / "x.jsonl", lines)
    with pytest.raises(UserError, match=r"x.jsonl") as error:
        read_transcripts(tmp_path / "x.jsonl")
    assert reason in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    for content, reason in (
        (b"\xff", "not UTF-8"),
        (b'{"a": ', "not valid JSON"),
        (b'"x"', "expected a"),
    ):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UserError, match=f"x.json.*{reason}"):
            read_transcripts(tmp_path / "x.json")
    (tmp_path / "y.jsonl").write_text(json.dumps(SIDE_A) + "\n\n{", encoding="utf-8")
    with pytest.raises(UserError, match=r"y.jsonl, line 3, column 2: not valid JSON"):
        read_transcripts(tmp_path / "y.jsonl")
    with pytest.raises(UserError, match=r"absent\.json: No such file"):
        read_transcripts(tmp_path / "absent.json")
    (tmp_path / "talk.docx").write_text("x")
    with pytest.raises(UserError, match=r"talk.docx: transcripts are read from .txt, .json, .jsonl"):
        read_transcripts(tmp_path / "talk.docx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.hidden.txt").write_text("x")
    with pytest.raises(UserError, match=r"empty: contains no .txt, .json or .jsonl file"):
        read_transcripts(tmp_path / "empty")


def test_broken_transcripts_are_found_when_planning(tmp_path, default_config, root):
    """Before any job starts: the plan's error has the setting, the file and the line."""
    config = {key: default_config[key] for key in ("name", "world", "models", "prompts")}
    path = tmp_path / "talks.jsonl"
    config |= {"rounds": 0, "dialogues": {"transcripts": str(path)}}
    good = json.dumps(SIDE_A)
    for text, fault in (
        (None, "no such file or folder"),
        (f"{good}\n{good[:-9]}\n", "talks.jsonl, line 2, column 210: not valid JSON"),
        (json.dumps([message("user", "x"), message("tool", "y")]), "line 1, message 2: unknown role"),
        ("\n", "talks.jsonl: contains no conversation"),
    ):
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError) as error:
            read_experiment(config, root)
        (sentence,) = str(error.value).splitlines()[1:]
        assert sentence.startswith("  dialogues.transcripts: ") and fault in sentence
    path.write_text(f"{good}\n{json.dumps(SIDE_B)}\n", encoding="utf-8")
    assert read_experiment(config, root).dialogues.transcripts == str(path)


def test_a_record_of_one_turn_is_valid_and_models_must_be_complete(tmp_path):
    record = {"dialogue_id": "d", "topic": "bread", "speakers": ["a", "b"]}
    record["turns"] = [{"speaker": "a", "text": "hi"}]
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps(record | {"models": {"a": "m", "b": "n"}}))
    (found,) = read_transcripts(path)
    assert found["speakers"] == ["a", "b"] and len(found["turns"]) == 1
    for wrong in ({"models": {"a": "m"}}, {"models": ["m", "n"]}, {"speakers": [["a"], "b"]}):
        path.write_text(json.dumps(record | wrong))
        with pytest.raises(UserError, match=r"talks.jsonl.*(models|speakers) must"):
            read_transcripts(path)


TALK = """Topic: Do bakers need scales?
subject: baking

Anna: I weigh everything.
At 10:30 I start; see https://example.org: it
 Note: is indented.

Two paragraphs.


Ben: Not at home.
Ben: Most recipes forgive that.
Anna:
"""


def test_a_text_file_has_headers_and_turns_that_begin_with_names(tmp_path):
    (tmp_path / "flour.txt").write_text("\ufeff" + TALK.replace("\n", "\r\n"), encoding="utf-8")
    (record,) = read_transcripts(tmp_path)
    kept = ("dialogue_id", "topic_id", "topic", "subject", "split", "speakers")
    assert {key: record[key] for key in kept} == {
        "dialogue_id": "flour",
        "topic_id": "flour",
        "topic": "Do bakers need scales?",
        "subject": "baking",
        "split": "held_out",
        "speakers": ["Anna", "Ben"],
    }
    first = "I weigh everything.\nAt 10:30 I start; see https://example.org: it\n Note: is indented."
    assert said(record) == [
        ("Anna", f"{first}\n\nTwo paragraphs."),
        ("Ben", "Not at home.\n\nMost recipes forgive that."),
        ("Anna", ""),
    ]
    assert read_transcripts(tmp_path / "flour.txt") == [record]


def test_the_header_speakers_says_whose_names_begin_a_turn():
    text = "Speakers: Jo, Ann Lee\nSplit: train\nDialogue_id: 7\n"
    turns = "Ann Lee: Yes.\nNote: no.\nTopic: bread.\nJo: Why?\n"
    assert parse_text(text + turns, Path("x.txt")) == {
        "split": "train",
        "dialogue_id": "7",
        "speakers": ["Ann Lee", "Jo"],
        "turns": [
            {"speaker": "Ann Lee", "text": "Yes.\nNote: no.\nTopic: bread."},
            {"speaker": "Jo", "text": "Why?"},
        ],
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Topic: x\n\nI weigh everything.\nAnna: y", "line 3: this text has no speaker: begin each"),
        (
            "Anna: x\nBen: y\nNote: z",
            "line 3: names of three speakers ('Anna' in line 1, 'Ben' in line 2, 'Note' in line 3); a "
            "conversation has two: if one of these lines belongs to the turn before it, name the two "
            "speakers in a first line such as 'Speakers: Anna, Ben'",
        ),
        ("Anna: x\nTopic: y\nBen: z", "line 2: Topic is a header and must stand above the first turn"),
        ("Topic:\nAnna: x", "line 1: Topic has no value"),
        ("Topic: x\n\nTopic: y", "line 3: Topic is given a second time"),
        ("Anna: x\nAnna: y", "only Anna speaks; a conversation needs turns of two speakers"),
        ("Speakers: Anna, Ben\nAnna: x", "only Anna speaks"),
        ("Topic: x\n", "it has no turn; a conversation needs turns of two speakers"),
        ("", "it has no turn"),
        ("Speakers: Anna\nAnna: x", "line 1: Speakers must be two different names"),
        ("Speakers: Anna, Anna\nAnna: x", "line 1: Speakers must be two different names"),
        ("Speakers: A, B\nC: x", "line 2: this text has no speaker"),
        ("Topic: x\nSplit: test\nA: x", "line 2: split is 'test'; it must be train or held_out"),
    ],
)
def test_an_error_in_a_text_file_names_file_and_line(tmp_path, text, reason):
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_transcripts(tmp_path)
    assert f"{tmp_path / 'x.txt'}" in str(error.value) and reason in str(error.value)


def test_the_text_file_of_the_docs_is_valid(root):
    docs = (root / "docs/conversations.md").read_text(encoding="utf-8")
    shown = docs.split("### Text files")[1].split("```")[1]
    found = parse_text(shown.strip(), Path("x.txt"))
    assert found["topic"] and len(found["turns"]) == 2
    entry = docs.split("### JSON files")[1].split("```json")[1].split("```")[0]
    assert set(json.loads(entry)) == {"topic", "subject", "model", "messages"}


def test_turns_are_flagged_as_generated_ones_are(tmp_path):
    turns = ["I bake rye.", "As an AI, I cannot taste it.", "It keeps for", "I bake rye every day."]
    turns += ["User: hello", "I bake rye every day.", ""]
    messages = [message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)]
    (record,) = read_transcripts(save(tmp_path / "x.json", messages))
    flag_turns([record])
    expected = [[], ["persona_break"], ["truncated"], [], ["truncated", "role_flip"], ["repetition"]]
    assert [turn["flags"] for turn in record["turns"]] == [*expected, ["empty"]]
    assert {turn["cut"] for turn in record["turns"]} == {""}


def test_what_was_trimmed_from_a_dialogue_record_counts_for_its_flags(tmp_path):
    turns = [
        {"speaker": "mixtral", "text": "Hi.", "cut": " As an AI, I", "finish_reason": "length"},
        OWN["turns"][1],
    ]
    (record,) = read_transcripts(save(tmp_path / "x.json", OWN | {"turns": turns}))
    flag_turns([record])
    assert record["turns"][0]["cut"] == " As an AI, I"
    assert record["turns"][0]["flags"] == ["truncated", "persona_break"]
    assert record["turns"][1]["flags"] == []
