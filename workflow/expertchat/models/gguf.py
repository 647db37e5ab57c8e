"""Models from GGUF files: dequantized, and stored in the Hugging Face layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat import chat
from expertchat.console import progress_bar
from expertchat.errors import UserError
from expertchat.models.gguf_header import (
    SINGLE_DIGIT_SPLITS,
    Header,
    header_faults,
    read_header,
    sample,
)
from expertchat.models.targets import TargetModules, check_targets, first_line

NAME = "model.gguf"
PRIVATE = ("quantization_config", "_name_or_path", "_model_name_or_path")  # not for config.json
ROPE_FACTORS = "rope_freqs.weight"  # tensor with Llama 3's factors of the rotary frequencies
LLAMA3_ROPE = {  # of all Llama 3 models; the factor differs
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Conversion:
    """What is made of a GGUF file."""

    dtype: str  # of the stored weights; float32 is exact
    needs_template: bool  # whether a file without a chat template is an error
    targets: TargetModules


def check_unchanged(path: Path, planned: str) -> None:
    """Raises UserError if the `sample` of a user's file is not the one that it had when planning."""
    if not path.is_file() or sample(read_header(path)) != planned:
        raise UserError(
            f"{path} changed after this job was planned: run the same snakemake command again to plan "
            "it again"
        )


def convert(path: Path, source: str, wanted: Conversion, work: Path, out: Path) -> None:
    """Writes the model, tokenizer and chat template of the GGUF file at `path` to `out / "model"`.

    `source` names the file in messages; `work` is a folder for temporary files. Raises UserError if the
    file cannot be converted completely, or if the model has no layers named as in `wanted.targets`.
    """
    header = read_header(path)
    for fault in header_faults(header, wanted.needs_template):
        raise UserError(f"{source}: {fault}")
    try:
        tokenizer = read_tokenizer(header, work)
        with _isolated(path, work) as folder:
            model = _model(folder, header, source, wanted)
    except UserError:
        raise
    except Exception as error:  # transformers and gguf raise many kinds of errors for invalid files
        raise UserError(f"{source}: it cannot be converted: {first_line(error)}") from None
    model.generation_config = _generation_config(tokenizer, header)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


def _model(folder: Path, header: Header, source: str, wanted: Conversion):
    """The model, with all weights of the file and a configuration that does not mention GGUF."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = AutoConfig.from_pretrained(folder, gguf_file=NAME)
    check_targets(wanted.targets, config, source)
    with _progress():
        read, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            gguf_file=NAME,
            dtype=getattr(torch, wanted.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below
        )
    _check_complete(read, found, header, source)
    settings = {key: value for key, value in read.config.to_dict().items() if key not in PRIVATE}
    if _has_rope_factors(header):
        rope = settings["rope_parameters"] | _llama3_rope(folder / NAME, settings, source)
        settings["rope_parameters"] = rope
    # save_pretrained refuses a model that was read from GGUF, so the weights move to a new one
    with torch.device("meta"):
        model = type(read)(type(read.config)(**settings))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _check_complete(model, found: dict[str, Any], header: Header, source: str) -> None:
    """Raises UserError unless each weight of the model is in the file, and each tensor in the model."""
    for name, given, needed in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{source}: it cannot be converted: the shape of {name} is {list(given)} in the file and "
            f"{list(needed)} in the model"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{source}: it cannot be converted: the file has no weights for {missing[0]}{more}"
        )
    unique = {weight.data_ptr(): weight.numel() for weight in model.state_dict().values()}
    unused = {ROPE_FACTORS, *(["output.weight"] if model.config.tie_word_embeddings else [])}
    given = sum(tensor.elements for tensor in header.tensors if tensor.name not in unused)
    if sum(unique.values()) != given:
        raise UserError(
            f"{source}: it cannot be converted: it has {given:,} weights, and a "
            f"{model.config.model_type} in transformers takes {sum(unique.values()):,} of them"
        )


def _has_rope_factors(header: Header) -> bool:
    return any(tensor.name == ROPE_FACTORS for tensor in header.tensors)


def _llama3_rope(path: Path, settings: dict[str, Any], source: str) -> dict[str, Any]:
    """Settings of Llama 3's rotary embeddings that give the factors in the file.

    Raises UserError if the factors are others than Llama 3's.
    """
    import torch
    from gguf import GGUFReader
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tensors = GGUFReader(path).tensors
    factors = torch.tensor(next(t.data for t in tensors if t.name == ROPE_FACTORS).copy()).float()
    rope = {**LLAMA3_ROPE, "factor": float(factors.max())}
    theta = settings["rope_parameters"]["rope_theta"]
    config = LlamaConfig(
        hidden_size=settings["hidden_size"],
        num_attention_heads=settings["num_attention_heads"],
        head_dim=settings["head_dim"],
        rope_parameters={**rope, "rope_theta": theta},
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = theta ** -(torch.arange(0, settings["head_dim"], 2) / settings["head_dim"])
    if len(factors) != len(scaled) or not torch.allclose(plain / factors, scaled, rtol=1e-4):
        raise UserError(
            f"{source}: the scaling of its rotary embeddings ({ROPE_FACTORS}) is not Llama 3's, so it "
            "cannot be converted: use the original weights with source path"
        )
    return rope


@contextmanager
def _progress() -> Iterator[None]:
    """Shows the progress of dequantization as every job does, in place of transformers' own bar."""
    from transformers import modeling_gguf_pytorch_utils as loader

    def counted(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        tensors = list(tensors)
        with progress_bar(len(tensors), "models", "tensors") as bar:
            for tensor in tensors:
                yield tensor
                bar.update()

    original, loader.tqdm = loader.tqdm, counted
    try:
        yield
    finally:
        loader.tqdm = original


def read_tokenizer(header: Header, work: Path):
    """The tokenizer of a GGUF file with its chat template. It splits text as the file says.

    `work` is a folder for temporary files.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    with _isolated(header.path, work) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=NAME)
    if header.metadata.get("tokenizer.ggml.pre") in SINGLE_DIGIT_SPLITS:  # transformers ignores it
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
    return tokenizer


@contextmanager
def _isolated(path: Path, work: Path) -> Iterator[Path]:
    """A folder that contains only a link NAME to the GGUF file at `path`.

    transformers would also read other files in the file's own folder, such as tokenizer_config.json.
    """
    folder = work / "gguf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(path.resolve())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _generation_config(tokenizer, header: Header):
    """Generation settings with every token that ends a turn."""
    from transformers import GenerationConfig

    ends = end_tokens(tokenizer, header)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )


def end_tokens(tokenizer, header: Header) -> list[int]:
    """The tokens that end a turn, sorted: the file's end token and end-of-turn token, and the special
    token that the chat template writes after an assistant's turn."""
    metadata = header.metadata
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    ends = {metadata[key] for key in keys if key in metadata}
    if tokenizer.chat_template is not None:
        marker = "expertchat-probe"
        messages = [{"role": "user", "content": "probe"}, {"role": "assistant", "content": marker}]
        try:
            text = chat.render(tokenizer, messages, reply=False)
        except UserError:  # a stage that uses the template reports this, and the user may replace it
            text = ""
        following = tokenizer.encode(text.partition(marker)[2], add_special_tokens=False)[:1]
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends |= special & set(following)
    return sorted(ends)
