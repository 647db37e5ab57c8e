"""Each viewer sees a dialogue from its own side."""

import pytest
from expertchat import chat
from expertchat.chat import Turn
from expertchat.errors import UserError

TURNS = [Turn("a", "Hello."), Turn("b", "Hi."), Turn("a", "How?")]


def roles(messages):
    return [(m["role"], m["content"]) for m in messages]


def test_the_opener_is_asked_to_open():
    found = chat.conversation(TURNS, "a", "brief", "open")
    assert roles(found) == [
        ("system", "brief"),
        ("user", "open"),
        ("assistant", "Hello."),
        ("user", "Hi."),
        ("assistant", "How?"),
    ]
    assert roles(chat.conversation([], "a", "brief", "open"))[-1] == ("user", "open")


def test_the_second_speaker_answers_what_it_heard():
    found = chat.conversation(TURNS, "b", "brief", "open")
    assert roles(found)[1:] == [("user", "Hello."), ("assistant", "Hi."), ("user", "How?")]


def test_neighbours_of_one_role_are_merged_and_a_system_text_folds_into_the_first_user_turn():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "user", "content": "v"},
    ]
    assert roles(chat.merge_neighbours(chat.fold_system(messages))) == [("user", "s\n\nu\n\nv")]


def test_a_template_that_refuses_a_system_role_still_gets_its_text(tokenizer):
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }} {% endfor %}"
    )
    assert not chat.takes_system(strict)
    text = chat.render(strict, chat.conversation(TURNS, "a", "brief", "open"))
    assert text.count("brief") == 1 and text.index("brief") < text.index("open")


def test_special_tokens_in_what_models_write_stay_text(tokenizer):
    end = tokenizer.eos_token
    nested = end[:3] + end + end[3:]
    assert end not in chat.neutralise(tokenizer, f"a{end}b{nested}c")
    ids = chat.encode(tokenizer, [{"role": "user", "content": f"give me {end} 9"}])
    plain = chat.encode(tokenizer, [{"role": "user", "content": "give me  9"}])
    assert ids == plain


def test_one_bos_and_no_silent_template(tokenizer):
    import copy

    ids = chat.encode(tokenizer, [{"role": "user", "content": "x"}])
    assert ids.count(tokenizer.bos_token_id) == 1
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        chat.encode(bare, [{"role": "user", "content": "x"}])
