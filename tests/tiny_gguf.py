"""Tiny GGUF files, written with package gguf: a Llama and its byte-level tokenizer."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize

HIDDEN, HEADS, KEY_HEADS, INNER, LAYERS = 64, 4, 2, 96, 2
HEAD = HIDDEN // HEADS
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END, START = 2, 1


def vocabulary() -> tuple[list[str], list[str]]:
    """(tokens, merges): special tokens, all bytes in GPT-2's spelling, and two spaces as one token."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), "ĠĠ"], ["Ġ Ġ"]


def sentencepiece() -> list[str]:
    """Tokens in Llama 2's manner: special tokens, bytes, and letters of a few words."""
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdef", "▁a"]


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order of GGUF: halves of each head interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_tiny(path: Path, kind: str = "F32", **changes) -> dict[str, np.ndarray]:
    """Writes a random Llama whose matrices have type `kind`; returns its weights under HF's names, as
    they are after dequantization.

    `changes` override metadata; None leaves a key out. Tensors are added by `extra`, left out by
    `without`, and written under another `architecture`.
    """
    tokens, merges = vocabulary()
    types = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    if changes.get("tokenizer.ggml.model") == "llama":
        tokens, merges = sentencepiece(), None
        types = [TokenType.CONTROL] * 3 + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * 8
    extra, without = changes.pop("extra", {}), changes.pop("without", ())
    architecture = changes.pop("architecture", "llama")
    writer = GGUFWriter(path, architecture)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": START,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.padding_token_id": END,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": CHATML,
        "general.name": "somebody's name of the model",
    } | changes
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    if changes.get("tokenizer.ggml.tokens", tokens) is not None:
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if merges is None:
            writer.add_token_scores([0.0] * (len(tokens) - 1) + [1.0])
        else:
            writer.add_token_merges(merges)
    for key, value in metadata.items():
        if key != "tokenizer.ggml.tokens" and value is not None:
            writers = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
            writers[type(value)](key, value)
    weights = {}
    for name, (hf_name, shape, heads) in tensors(len(tokens)).items():
        if name in without:
            continue
        random = np.random.default_rng(len(weights)).normal(0, 0.3, shape).astype(np.float32)
        stored = "F32" if len(shape) == 1 else kind  # norms are never quantized
        number = GGMLQuantizationType[stored]
        data = quantize(permuted(random, heads) if heads else random, number)
        writer.add_tensor(name, data, raw_dtype=number)
        value = dequantize(data, number)
        weights[hf_name] = unpermuted(value, heads) if heads else value
    for name, value in extra.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The reverse of `permuted`."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def tensors(vocabulary_size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """GGUF's name -> (HF's name, shape, heads if the rows are permuted else 0)."""
    found: dict[str, tuple[str, tuple[int, ...], int]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocabulary_size, HIDDEN), 0),
        "output_norm.weight": ("model.norm.weight", (HIDDEN,), 0),
    }
    keys = KEY_HEADS * HEAD
    for layer in range(LAYERS):
        parts = {
            "attn_norm": ("input_layernorm", (HIDDEN,), 0),
            "ffn_norm": ("post_attention_layernorm", (HIDDEN,), 0),
            "attn_q": ("self_attn.q_proj", (HIDDEN, HIDDEN), HEADS),
            "attn_k": ("self_attn.k_proj", (keys, HIDDEN), KEY_HEADS),
            "attn_v": ("self_attn.v_proj", (keys, HIDDEN), 0),
            "attn_output": ("self_attn.o_proj", (HIDDEN, HIDDEN), 0),
            "ffn_gate": ("mlp.gate_proj", (INNER, HIDDEN), 0),
            "ffn_up": ("mlp.up_proj", (INNER, HIDDEN), 0),
            "ffn_down": ("mlp.down_proj", (HIDDEN, INNER), 0),
        }
        for name, (hf_name, shape, heads) in parts.items():
            found[f"blk.{layer}.{name}.weight"] = (
                f"model.layers.{layer}.{hf_name}.weight",
                shape,
                heads,
            )
    return found


def write_wheel(folder: Path, files: dict[str, Path | str], name: str = "tiny_chat") -> Path:
    """Writes the wheel of a distribution, version 1.0, with these files, given by path or content."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        for member, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content.encode()
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel
