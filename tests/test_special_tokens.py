"""Special tokens that models spell out in their texts are removed; ordinary text stays."""

import pytest
from expertchat import chat

SPELLED = [
    "<s>",
    "</s>",
    "<unk>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[/TOOL_RESULTS]",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|reserved_special_token_12|>",
    "<|im_start|>",
    "<|user|>",
    "<|endoftext|>",
    "<|padding|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
]


@pytest.mark.parametrize("token", SPELLED)
def test_special_tokens_of_every_family_are_removed_nested_ones_too(tokenizer, token):
    nested = token[:2] + token + token[2:]
    woven = token[0] + "</s>" + token[1:]
    assert chat.strip_special_tokens(tokenizer, f"a{token}b{nested}c{woven}d") == "abcd"


@pytest.mark.parametrize(
    "text",
    [
        "a<b and c>d, so a < b > c",
        "see [1] and [INSTALL]",
        "<html><b>bold</b></html>",
        "x |> f <| y",
        "<| no token |>",
        "a << 2 >> 1",
        "User: hello\nAssistant: hi",
        "ÿ is a letter, é too",
    ],
)
def test_ordinary_text_stays(tokenizer, text):
    assert chat.strip_special_tokens(tokenizer, text) == text


def test_special_tokens_in_what_models_write_stay_text(tokenizer):
    end = tokenizer.eos_token
    nested = end[:3] + end + end[3:]
    assert end not in chat.strip_special_tokens(tokenizer, f"a{end}b{nested}c")
    ids = chat.encode(tokenizer, [{"role": "user", "content": f"give me {end} 9"}])
    plain = chat.encode(tokenizer, [{"role": "user", "content": "give me  9"}])
    assert ids == plain
