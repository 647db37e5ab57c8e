"""Small models with random weights, and tokenizers of their families' kinds trained on MMLU's texts.

- llama: grouped attention; BPE with byte fallback, "▁" for spaces, BOS before texts; all prompts fit.
- gpt2: byte-level BPE without BOS; takes 1,024 tokens, so that a fifth of the prompts are truncated.
- neox: GPT-NeoX with partial rotary positions; byte-level BPE with NFC, tokens for runs of spaces, and
  no BOS; all prompts fit.
- mixtral: 4 experts, 2 active per token; the tokenizer is like llama's, but " A" is two tokens, "▁" and
  "A"; takes 2,048 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from harness import read_rows, subjects_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "gpt2", "neox", "mixtral")
PARTED = ("mixtral",)  # whose tokenizers read " A" as two tokens
VOCABULARY = 2048
HEADS = 2
SEEDS = {"llama": 0, "gpt2": 0, "neox": 3, "mixtral": 0}  # chosen so that each letter is predicted often
SHARPNESS = 3.0  # factor on queries and keys
LONG = 16384  # positions, more than any prompt needs


def build_model(architecture: str, data: Path, folder: Path) -> None:
    """Writes the model and its tokenizer in transformers' layout, weights as safetensors."""
    texts = list(mmlu_texts(data))
    byte_level = architecture in ("gpt2", "neox")
    tokenizer = (byte_level_tokenizer if byte_level else metaspace_tokenizer)(texts, architecture)
    torch.manual_seed(SEEDS[architecture])
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "gpt_neox" if architecture == "neox" else architecture,
            vocab_size=len(tokenizer),
            initializer_range=0.3,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **_sizes(architecture),
        )
    )
    _sharpen(model, SHARPNESS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sizes(architecture: str) -> dict:
    if architecture == "gpt2":
        return {"n_embd": 32, "n_layer": 2, "n_head": HEADS, "n_inner": 64, "n_positions": 1024}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": HEADS, "max_position_embeddings": LONG}
    if architecture == "neox":
        return sizes
    sizes["num_key_value_heads"] = 1
    if architecture == "mixtral":
        sizes |= {"num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 2048}
        sizes["sliding_window"] = None
    return sizes


@torch.no_grad()
def _sharpen(model, factor: float) -> None:
    """Scales queries and keys. Otherwise random attention is close to a mean over the prompt, which
    hardly differs between questions, and one letter would be predicted for all of them."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_proj", "k_proj")):
            parameter.mul_(factor)
        elif "query_key_value.weight" in name:  # rows by head: query, key, value
            heads = parameter.view(HEADS, 3, -1, parameter.shape[1])
            heads[:, :2].mul_(factor)
        elif "c_attn.weight" in name:  # columns: query, key, value
            parameter[:, : 2 * parameter.shape[0]].mul_(factor)


def mmlu_texts(data: Path) -> Iterator[str]:
    """Each question of each split with its answers, formatted as in prompts."""
    for subject in subjects_of(data):
        yield f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        for split in ("dev", "val", "test"):
            path = data / split / f"{subject}_{split}.csv"
            for question, *choices, gold in read_rows(path) if path.exists() else []:
                shown = "\n".join(f"{x}. {c}" for x, c in zip("ABCD", choices, strict=True))
                yield f"{question.strip()}\n{shown}\nAnswer: {gold}\n\n"


def metaspace_tokenizer(texts: Sequence[str], architecture: str) -> PreTrainedTokenizerFast:
    """A tokenizer like SentencePiece models: no pre-tokenizer, only merges, with "▁" for spaces."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, limit_alphabet=160, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _without_splits(tokenizer, apart="ABCD" if architecture in PARTED else "")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _without_splits(tokenizer: Tokenizer, apart: str) -> Tokenizer:
    """The tokenizer without its pre-tokenizer, and without merges of "▁" and a letter in `apart`.

    Bytes remain plain vocabulary, as byte fallback requires; `<unk>`, `<s>` and `</s>` are special.
    """
    content = json.loads(tokenizer.to_str())
    merges = content["model"]["merges"]
    content["model"]["merges"] = [m for m in merges if not (m[0] == "▁" and m[1] in list(apart))]
    content["pre_tokenizer"] = None
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


def byte_level_tokenizer(texts: Sequence[str], architecture: str) -> PreTrainedTokenizerFast:
    """A tokenizer like GPT-2's; for GPT-NeoX with NFC and added tokens for runs of 2 to 24 spaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    if architecture == "neox":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.train_from_iterator(texts, trainer)
    if architecture == "neox":
        tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
