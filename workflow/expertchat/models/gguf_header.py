"""The header of a GGUF file: its metadata and the list of its tensors.

It is read without numpy or torch, because files are checked each time that the workflow is planned.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from expertchat.errors import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SAMPLE_BYTES = 4096  # of each tensor, for `sample`

# Architectures of chat models that transformers builds from GGUF files.
ARCHITECTURES = frozenset(
    {"bloom", "deci", "falcon", "gemma2", "gemma3", "gemma4", "gpt-oss", "gpt2", "lfm2", "llama"}
    | {"mamba", "minimax-m2", "nemotron", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen35"}
    | {"qwen35moe", "stablelm", "starcoder2"}
)
TOKENIZERS = frozenset({"gpt2", "llama", "gemma4"})  # kinds that transformers builds

# How byte-level tokenizers split text before merging: names that the format defines for GPT-2's rule,
# for GPT-2's rule with single digits, and for rules that transformers knows itself.
GPT2_SPLITS = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"})
SINGLE_DIGIT_SPLITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
KNOWN_SPLITS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx"}
    | {"jina-v5-nano", "smaug-bpe", "tekken", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"}
    | {"qwen35", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}
)

# Types of tensors that can be dequantized: number -> (name, elements per block, bytes per block)
TENSOR_TYPES = (
    {0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2)}
    | {2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)}
    | {8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144)}
    | {13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66)}
    | {17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50)}
    | {20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82)}
    | {23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54)}
    | {35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36)}
)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9  # types of metadata that are not scalars


@dataclass(frozen=True)
class Tensor:
    """One tensor of a GGUF file."""

    name: str
    elements: int
    type: int  # a key of TENSOR_TYPES, if it can be dequantized
    offset: int  # in bytes, from the beginning of the file


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file."""

    path: Path
    size_bytes: int  # of the file
    metadata: Mapping[str, Any]  # an array is given by its length
    tensors: tuple[Tensor, ...]
    data_start: int  # where the header ends and the tensors begin, in bytes

    @property
    def architecture(self) -> str:
        """The architecture, such as llama."""
        return self.metadata["general.architecture"]


class _Reader:
    """A position in a mapped file, from which values are read in turn."""

    def __init__(self, data: mmap.mmap):
        self.data, self.position = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        """The next values in `struct`'s notation."""
        values = struct.unpack_from("<" + form, self.data, self.position)
        self.position += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        begin, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise EOFError
        return self.data[begin : self.position].decode("utf-8")

    def value(self, kind: int) -> Any:
        """A value of metadata; of an array its length."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.take(SCALARS[kind])[0]
        inner, count = self.take("IQ")
        if inner == STRING:
            for _ in range(count):
                self.position += 8 + struct.unpack_from("<Q", self.data, self.position)[0]
        else:
            self.position += count * struct.calcsize("<" + SCALARS[inner])
        return count


def read_header(path: Path) -> Header:
    """The header of the GGUF file at `path`. Raises UserError if it is not one or is not complete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise UserError(f"{path}: not a GGUF file: it does not begin with the letters GGUF")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, size, _Reader(data))
        except (struct.error, EOFError):
            raise UserError(f"{path}: the file ends within its header: download it again") from None
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: its header cannot be read ({error!r})") from None


def _parse(path: Path, size: int, reader: _Reader) -> Header:
    reader.position = len(MAGIC)
    (version,) = reader.take("I")
    if version not in VERSIONS:
        raise UserError(f"{path}: version {version} of the format GGUF is not supported, only 2 and 3")
    tensor_count, metadata_count = reader.take("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = reader.text()
        metadata[key] = reader.value(*reader.take("I"))
    entries = []
    for _ in range(tensor_count):
        name = reader.text()
        shape = reader.take(f"{reader.take('I')[0]}Q")
        entries.append((name, prod(shape), *reader.take("IQ")))
    alignment = metadata.get("general.alignment", 32)
    data_start = -(-reader.position // alignment) * alignment
    tensors = tuple(Tensor(name, n, kind, data_start + at) for name, n, kind, at in entries)
    if not isinstance(metadata.get("general.architecture"), str):
        raise UserError(f"{path}: its metadata has no general.architecture")
    return Header(path, size, metadata, tensors, data_start)


def sample(header: Header) -> str:
    """A fingerprint of the file, taken in milliseconds: of its size, its header and the beginning of
    each tensor. It does not depend on the file's name or place."""
    digest = hashlib.sha256(f"{header.size_bytes};".encode())
    with header.path.open("rb") as file:
        digest.update(file.read(header.data_start))
        for tensor in header.tensors:
            file.seek(tensor.offset)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def header_faults(header: Header, needs_template: bool) -> Iterator[str]:
    """One sentence for each reason why the model cannot be converted.

    `needs_template`: whether the model must have a chat template of its own.
    """
    metadata = header.metadata
    if header.architecture not in ARCHITECTURES:
        yield (
            f"models of architecture {header.architecture!r} cannot be converted; "
            f"known: {', '.join(sorted(ARCHITECTURES))}"
        )
    if metadata.get("split.count", 0) > 1:
        yield f"it is one of {metadata['split.count']} parts: merge them (llama-gguf-split --merge)"
    for tensor in header.tensors:
        if tensor.type not in TENSOR_TYPES:
            names = ", ".join(name for name, *_ in TENSOR_TYPES.values())
            yield f"tensor {tensor.name} has type {tensor.type}, which is not supported; known: {names}"
            break
    end = max((_end(tensor) for tensor in header.tensors), default=0)
    if end > header.size_bytes:
        yield f"it is cut off: {header.size_bytes:,} bytes of at least {end:,}: download it again"
    yield from _rotation_faults(header)
    yield from _tokenizer_faults(metadata)
    if needs_template and not metadata.get("tokenizer.chat_template"):
        yield (
            "it has no chat template: set chat_template in the model's load to plain, or to the path of "
            "a .jinja file"
        )


def _end(tensor: Tensor) -> int:
    """Where the tensor ends in the file; where it begins, if its type is not known."""
    _, elements, size = TENSOR_TYPES.get(tensor.type, ("", 1, 0))
    return tensor.offset + tensor.elements // elements * size


def _rotation_faults(header: Header) -> Iterator[str]:
    """Scaled rotary embeddings, whose settings transformers does not take from the file.

    Those of Llama 3 are in a tensor and not in the metadata; the conversion reads them.
    """
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if kind != "none" and header.architecture != "gpt-oss":
        yield (
            f"its rotary embeddings are scaled ({kind!r}), which cannot be converted: use the original "
            "weights with source path"
        )


def _tokenizer_faults(metadata: Mapping[str, Any]) -> Iterator[str]:
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind is None or "tokenizer.ggml.tokens" not in metadata:
        yield "it contains no tokenizer"
    elif kind not in TOKENIZERS:
        known = ", ".join(sorted(TOKENIZERS))
        yield f"tokenizers of kind {kind!r} cannot be converted; known: {known}"
    elif kind == "gpt2" and split not in GPT2_SPLITS | SINGLE_DIGIT_SPLITS | KNOWN_SPLITS:
        yield (
            f"how its tokenizer splits text (tokenizer.ggml.pre: {split!r}) is not known: text would be "
            "tokenized differently than in training; use the original model with source path"
        )
    if kind is not None and "tokenizer.ggml.eos_token_id" not in metadata:
        yield "it names no end token (tokenizer.ggml.eos_token_id), so replies would not end"
