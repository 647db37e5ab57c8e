"""What a reward model reads: long contexts lose their beginning, lengths can be matched."""

import pytest
from expertchat import chat
from expertchat.engine.training import load_tokenizer
from expertchat.errors import UserError
from expertchat.preferences.mixing import mix_preferences
from expertchat.rewards.data import preferred_data
from expertchat.rewards.encoding import encode_context
from expertchat.rewards.ensemble import combined, member_seeds
from expertchat.rewards.evaluation import best_of, evaluate
from expertchat.rewards.rated_pairs import match_lengths
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards
from test_preferences import question, save

SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATION = [
    SYSTEM,
    {"role": "user", "content": "one two three four five six"},
    {"role": "assistant", "content": "seven"},
    {"role": "user", "content": "eight"},
]


@pytest.fixture(scope="module")
def tokens(llama_folder):
    return load_tokenizer(llama_folder, Load())


def test_a_context_that_fits_is_whole(tokens):
    context = encode_context(tokens, CONVERSATION, ["yes", "no no"], 1000)
    prompt = chat.encode(tokens, CONVERSATION)
    assert not context.shortened and context.cut == 0
    for row, length, reply in zip(context.rows, context.lengths, ("yes", "no no"), strict=True):
        assert row[: len(prompt)] == prompt and len(row) == len(prompt) + length
        assert row[-1] == tokens.eos_token_id and reply in tokens.decode(row)


def test_a_long_context_loses_its_oldest_messages_for_all_replies_alike(tokens):
    whole, short = chat.encode(tokens, CONVERSATION), chat.encode(tokens, [SYSTEM, CONVERSATION[-1]])
    room = encode_context(tokens, CONVERSATION, ["no no"], 1000).lengths[0]
    context = encode_context(tokens, CONVERSATION, ["yes", "no no"], len(whole) + room - 1)
    assert context.shortened
    assert all(row[: len(short)] == short for row in context.rows)
    assert max(map(len, context.rows)) == len(short) + room


def test_a_single_long_message_loses_its_first_tokens(tokens):
    messages = [CONVERSATION[1]]
    whole = chat.encode(tokens, messages)
    context = encode_context(tokens, messages, ["yes"], 12)
    (row,), (length,) = context.rows, context.lengths
    assert context.shortened and len(row) == 12 and row[:-length] == whole[-(12 - length) :]


def test_a_reply_without_room_for_the_context_loses_its_end(tokens):
    context = encode_context(tokens, CONVERSATION, ["yes", "no " * 50], 10)
    assert context.cut == 1 and max(map(len, context.rows)) == 10
    assert context.rows[1][-1] != tokens.eos_token_id


def test_preferences_are_pairs_of_the_split_and_held_out_ones(tokens, tmp_path):
    path = save(tmp_path / "a.jsonl", [question(n) for n in range(60)])
    (tmp_path / "out").mkdir()
    shares = {"held_out": 0.3, "judge": 0.3}
    sources = [{"format": "hh-rlhf", "limit": None}]
    mix_preferences(sources, [path], shares, None, 0, tmp_path / "out")
    train, judge = (
        preferred_data(tokens, tmp_path / "out", split, Rewards()) for split in ("train", "judge")
    )
    assert {p["topic_id"] for p in train.pairs}.isdisjoint(p["topic_id"] for p in judge.pairs)
    assert train.held_out == judge.held_out and train.fours == []
    pair = train.pairs[0]
    assert "yes" in tokens.decode(train.encoded[pair["chosen"]])
    assert "no" in tokens.decode(train.encoded[pair["rejected"]])
    assert train.fates["training"] == {"kept": len(train.pairs)}
    mix_preferences(sources, [path], shares | {"judge": 0.0}, None, 0, tmp_path / "out")
    with pytest.raises(UserError, match="there are no training pairs"):
        preferred_data(tokens, tmp_path / "out", "judge", Rewards())


def test_lengths_are_matched_by_the_nearest_difference():
    lengths = {"s": 5, "m": 8, "l": 15}
    names = [("l", "s"), ("m", "s"), ("l", "m"), ("s", "m"), ("s", "s")]  # +10, +3, +7, -3, 0
    pairs = [{"chosen": a, "rejected": b} for a, b in names]
    assert match_lengths(pairs, lengths) == [pairs[1], pairs[3], pairs[4]]
    assert match_lengths(pairs[:3], lengths) == []
    mirrored = [{"chosen": p["rejected"], "rejected": p["chosen"]} for p in pairs]
    assert match_lengths([*pairs, *mirrored], lengths) == [*pairs, *mirrored]


def test_the_best_of_four_by_hand():
    scores = {"a": 3.0, "b": 2.0, "c": 3.0, "d": 1.0, "e": 0.0}
    contexts = [("t", ["a", "b", "d", "e"]), ("t", ["b", "a", "d", "e"]), ("u", ["a", "c", "d", "e"])]
    found = best_of(contexts, scores)
    assert found["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3) and found["contexts"] == 3
    assert best_of([], scores) is None


def test_the_ensemble_lowers_what_its_members_disagree_on():
    members = [{"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 5.0}]
    assert combined(members, 1.0) == {"a": 1.0, "b": 3.0}  # 4 - 1
    assert combined(members, 0.0) == {"a": 1.0, "b": 4.0}
    assert combined(members[:1], 9.0) == members[0]
    assert member_seeds(7, 3)[:2] == member_seeds(7, 2) and member_seeds(7, 1) == [7]


def test_the_correlation_of_scores_with_lengths_does_not_depend_on_the_order():
    pairs = [
        {"chosen": "a", "rejected": "b", "topic_id": "t"},
        {"chosen": "c", "rejected": "d", "topic_id": "u"},
    ]
    lengths = {"a": 10, "b": 5, "c": 3, "d": 9}
    proportional = {name: 0.1 * length for name, length in lengths.items()}
    assert evaluate(pairs, proportional, lengths)["length_correlation"] == pytest.approx(1)
    against = {name: -score for name, score in proportional.items()}
    assert evaluate(pairs, against, lengths)["length_correlation"] == pytest.approx(-1)
    assert evaluate(pairs, dict.fromkeys(lengths, 1.0), lengths)["length_correlation"] == 0
