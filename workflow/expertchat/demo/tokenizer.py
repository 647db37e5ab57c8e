"""The demo models' tokenizer: byte-level BPE with one token per digit, and a chat template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PAD, BOS, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Marks:
    """Special tokens and the chat template that writes them. `pad`: None for a tokenizer that has none;
    `begin`: put before a plain text, None: nothing is; `end`: ends a message; `others`: further ones."""

    pad: str | None = PAD
    begin: str | None = BOS
    end: str = END
    others: tuple[str, ...] = tuple(ROLES.values())
    template: str | None = CHAT_TEMPLATE


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, marks: Marks = Marks(), max_length: int = 1024
):
    """A fast tokenizer with at most `vocabulary` tokens, trained on `texts`.

    Each digit is a token of its own, so each score is one token. The special tokens are all different.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in (marks.pad, marks.begin, marks.end, *marks.others) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(dict.fromkeys(special)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if marks.begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{marks.begin} $A",
            special_tokens=[(marks.begin, tokenizer.token_to_id(marks.begin))],
        )
    named = {"pad_token": marks.pad, "bos_token": marks.begin, "eos_token": marks.end}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=list(marks.others),
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token is not None},
    )
    fast.chat_template = marks.template
    return fast
