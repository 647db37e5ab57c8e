"""Human preferences: records become pairs of replies to one conversation, split by how it begins."""

import gzip
import json
import os
from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.preferences.artifact import preferred_contexts, read_pairs
from expertchat.preferences.mixing import mix_preferences, split_of, topic_of, within
from expertchat.preferences.records import read_preferences
from expertchat.records import read_json
from hypothesis import given
from hypothesis import strategies as st

BEFORE = "\n\nHuman: Is rye bread dense?\n\nAssistant: Yes.\n\nHuman: Why?\n\nAssistant: "
CHOSEN = BEFORE + "It has little gluten."
REJECTED = CHOSEN.replace("It has little gluten.", "Who knows.")
HH = {"chosen": CHOSEN, "rejected": REJECTED}
CONTEXT = [
    {"role": "user", "content": "Is rye bread dense?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]
REPLIES = [{"role": "assistant", "content": text} for text in ("It has little gluten.", "Who knows.")]
WHOLE = {"chosen": [*CONTEXT, REPLIES[0]], "rejected": [*CONTEXT, REPLIES[1]]}
AFTER_PROMPT = {"prompt": CONTEXT, "chosen": REPLIES[:1], "rejected": REPLIES[1:]}
SHARES = {"held_out": 0.2, "judge": 0.3}


def save(path, records):
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("format", "record"),
    [("hh-rlhf", HH), ("messages", WHOLE), ("messages", AFTER_PROMPT)],
    ids=["hh-rlhf", "whole conversations", "after a prompt"],
)
def test_a_record_is_a_conversation_and_two_replies(tmp_path, format, record):
    found = read_preferences(save(tmp_path / "a.jsonl.gz", [record, record]), format)
    (preference,) = found.preferences
    assert preference.messages == CONTEXT
    assert (preference.chosen, preference.rejected) == ("It has little gluten.", "Who knows.")
    assert (found.records, found.duplicates, found.equal, found.faults) == (2, 1, 0, [])


def test_neighbouring_turns_of_one_speaker_are_one_message(tmp_path):
    text = "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman:\n\nHuman: d\n\nAssistant: "
    record = {"chosen": text + "yes", "rejected": text + "no"}
    (preference,) = read_preferences(save(tmp_path / "a.jsonl", [record]), "hh-rlhf").preferences
    assert [m["content"] for m in preference.messages] == ["a", "b\n\nc", "d"]


def test_equal_replies_are_left_out_and_counted(tmp_path):
    same = {"chosen": CHOSEN, "rejected": CHOSEN + " "}
    found = read_preferences(save(tmp_path / "a.jsonl", [HH, same]), "hh-rlhf")
    assert (len(found.preferences), found.equal, found.duplicates) == (1, 1, 0)


@pytest.mark.parametrize(
    ("format", "record", "words"),
    [
        ("hh-rlhf", {"chosen": CHOSEN}, ": rejected is missing"),
        ("hh-rlhf", HH | {"chosen": 7}, ": chosen is 7; it must be a string"),
        ("hh-rlhf", HH | {"chosen": "Yes."}, ': chosen begins with "Yes."; it must begin with Human:'),
        ("hh-rlhf", HH | {"chosen": CHOSEN + "\n\nHuman: And?"}, ": chosen must end with words of the"),
        ("hh-rlhf", HH | {"chosen": CHOSEN + "\n\nAssistant:"}, ": chosen must end with words of the"),
        ("hh-rlhf", HH | {"chosen": "\n\nAssistant: Hi."}, ": chosen: the roles are assistant; "),
        (
            "hh-rlhf",
            HH | {"rejected": REJECTED.replace("dense", "light")},
            ": chosen and rejected differ before their last message",
        ),
        ("messages", WHOLE | {"chosen": "Yes."}, ': chosen is "Yes."; it must be a list'),
        ("messages", WHOLE | {"chosen": CONTEXT}, ": chosen: the roles are user, assistant, user; "),
        ("messages", HH, "it must be a list"),
    ],
)
def test_an_invalid_record_is_named_with_its_place(tmp_path, format, record, words):
    path = save(tmp_path / "a.jsonl", [record])
    with pytest.raises(UserError) as caught:
        read_preferences(path, format)
    assert "1 of 1 records (100.00%) are invalid" in str(caught.value)
    assert "a.jsonl, line 1" in str(caught.value) and words in str(caught.value)


def test_few_faults_are_counted_and_the_others_are_used(tmp_path):
    good = {"chosen": CHOSEN, "rejected": REJECTED}
    records = [good | {"chosen": CHOSEN + f" {i}"} for i in range(199)]
    found = read_preferences(save(tmp_path / "a.jsonl", [*records, {"chosen": 1}]), "hh-rlhf")
    assert len(found.preferences) == 199 and len(found.faults) == 1


def test_unknown_formats_and_empty_files(tmp_path):
    path = save(tmp_path / "a.jsonl", [])
    with pytest.raises(UserError, match="unknown format 'x' of preferences; known: hh-rlhf, messages"):
        read_preferences(path, "x")
    with pytest.raises(UserError, match="contains no preference"):
        read_preferences(path, "hh-rlhf")


def mix(tmp_path, records, shares=SHARES, max_words=None, limit=None, seed=0):
    path = save(tmp_path / "a.jsonl", records)
    sources = [{"format": "hh-rlhf", "limit": limit}]
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    mix_preferences(sources, [path], shares, max_words, seed, out)
    return out


def question(number, reply="yes"):
    text = f"\n\nHuman: Question {number}?\n\nAssistant: "
    return {"chosen": text + reply, "rejected": text + "no"}


def test_conversations_that_begin_alike_share_a_split(tmp_path):
    records = [question(n % 100, f"yes {n}") for n in range(300)]
    out = mix(tmp_path, records)
    splits = {name: read_pairs(out, name) for name in ("train", "held_out", "judge")}
    assert sum(map(len, splits.values())) == 300
    topics = {name: {pair["topic_id"] for pair in pairs} for name, pairs in splits.items()}
    assert sum(map(len, topics.values())) == len(set().union(*topics.values())) == 100
    assert 10 <= len(topics["held_out"]) <= 30 and 20 <= len(topics["judge"]) <= 40
    assert len({pair["pair_id"] for pairs in splits.values() for pair in pairs}) == 300
    contexts = preferred_contexts(out, "train")
    assert len(contexts) == len(topics["train"]) and contexts[0].messages[-1]["role"] == "user"
    counts = read_json(out / "counts.json")
    assert counts["splits"] == {name: len(pairs) for name, pairs in splits.items()}
    assert counts["data"][0]["pairs"] == 300


def test_further_pairs_move_no_others_to_another_split(tmp_path):
    few = mix(tmp_path, [question(n) for n in range(60)])
    many = mix(tmp_path, [question(n) for n in range(90)])
    for name in ("train", "held_out", "judge"):
        before = {pair["topic_id"] for pair in read_pairs(few, name)}
        assert before <= {pair["topic_id"] for pair in read_pairs(many, name)}


def test_an_empty_split_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="of 1 preferences none is in split"):
        mix(tmp_path, [question(1)])
    out = mix(tmp_path, [question(n) for n in range(40)], shares={"held_out": 0.5, "judge": 0})
    assert read_pairs(out, "judge") == []


def test_a_limit_draws_pairs_at_random(tmp_path):
    records = [question(n) for n in range(200)]
    for limit, expected in ((50, 50), (500, 200)):
        counts = read_json(mix(tmp_path, records, limit=limit) / "counts.json")
        assert sum(counts["splits"].values()) == expected


def test_a_long_conversation_loses_its_oldest_messages():
    system = {"role": "system", "content": "Be brief."}
    messages = [system, *CONTEXT]
    assert within(messages, None) == within(messages, 9) == messages
    assert within(messages, 7) == [system, CONTEXT[-1]]
    assert within(messages, 1) == [system, CONTEXT[-1]]  # the last message always stays


TEXTS = st.lists(st.text(alphabet="ab \n", min_size=1, max_size=8), min_size=1, max_size=30)


@given(TEXTS, st.integers(0, 5))
def test_the_split_depends_on_the_first_message_only(texts, seed):
    for text in texts:
        first = [{"role": "user", "content": text}]
        longer = [*first, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
        spaced = [{"role": "user", "content": f"  {text}\n"}]
        assert topic_of(first) == topic_of(longer) == topic_of(spaced)
    assert split_of("topic", {"held_out": 0.0, "judge": 0.0}, seed) == "train"
    assert split_of("topic", {"held_out": 1.0, "judge": 0.0}, seed) == "held_out"


@pytest.mark.skipif("EXPERTCHAT_DATA" not in os.environ, reason="EXPERTCHAT_DATA is not set")
def test_the_real_pairs_of_hh_rlhf(tmp_path):
    path = Path(os.environ["EXPERTCHAT_DATA"]) / "hh-rlhf-harmless-base-test.jsonl.gz"
    found = read_preferences(path, "hh-rlhf")
    assert found.records == 2312 and len(found.faults) == 4
    assert len(found.preferences) + found.equal + found.duplicates + len(found.faults) == 2312
    assert all(p.messages[-1]["role"] == "user" for p in found.preferences)
