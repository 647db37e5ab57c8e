"""Loading models and tokenizers: from safetensors, at the precision of the settings."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from expertchat import chat
from expertchat.engine.finite import require_finite_weights
from expertchat.engine.linear import use_onednn
from expertchat.engine.memory import (
    block_bytes,
    check_footprint,
    large_blocks_returned,
    row_bytes,
    tensor_bytes,
)
from expertchat.engine.placement import Need
from expertchat.engine.quantization import check_quantizable, quantization_config
from expertchat.engine.rotation import SHORT_ONLY, long_rope_limit
from expertchat.errors import UserError
from expertchat.settings.architectures import check_architecture
from expertchat.settings.models import Load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def pick_dtype(load: Load, device: torch.device) -> torch.dtype:
    """The weights' type: as set, or for `auto` one that depends on the device only.

    That is float32 on CPUs, and on GPUs bfloat16, or float16 where bfloat16 is only emulated. CPUs that
    compute bfloat16 are no exception: it changes ratings and log-probabilities by more than stages
    tolerate (measured by `benchmarks/half_precision.py`).
    """
    if load.dtype != "auto":
        return DTYPES[load.dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def default_device() -> torch.device:
    """The device for models in this process: a GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_kernels(capability: tuple[int, int], builds: Sequence[str]) -> bool:
    """Whether PyTorch, built for `builds` such as sm_80 and compute_90, runs on a GPU of this compute
    capability.

    A binary (sm) runs on GPUs of its major version from its minor version on, portable code (compute) on
    all later ones.
    """
    for build in builds:
        kind, _, number = build.partition("_")
        digits = "".join(character for character in number if character.isdigit())
        major, minor = int(digits[:-1]), int(digits[-1])
        if kind == "sm" and capability[0] == major and capability[1] >= minor:
            return True
        if kind == "compute" and capability >= (major, minor):
            return True
    return False


def check_gpus() -> None:
    """Raises UserError if SLURM gave GPUs to this job and PyTorch sees none of them, or has no kernels
    for one that it sees."""
    given = os.environ.get("SLURM_JOB_GPUS")
    if given and not torch.cuda.is_available() and os.environ.get("EXPERTCHAT_DEVICE") != "cpu":
        raise UserError(
            f"SLURM gave the GPUs {given} to this job, but {why_no_gpu()}; to compute on the CPU all "
            "the same, set EXPERTCHAT_DEVICE=cpu"
        )
    builds = torch.cuda.get_arch_list()
    for gpu in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(gpu)
        if builds and not has_kernels(capability, builds):
            raise UserError(
                f"{torch.cuda.get_device_name(gpu)} has compute capability {capability[0]}."
                f"{capability[1]}, and this PyTorch (CUDA {torch.version.cuda}) has no kernels for it, "
                f"only for {', '.join(builds)}: install a build that has, such as one for CUDA 12.6 for "
                "GPUs of capability 7.0 (V100)"
            )


def why_no_gpu() -> str:
    """Why PyTorch uses no GPU, as a clause."""
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is a build without CUDA: install one with CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"PyTorch cannot use them: {str(error).splitlines()[0]}"
    return "PyTorch sees none of them: compare CUDA_VISIBLE_DEVICES and nvidia-smi in a job"


def check_attention(load: Load, dtype: torch.dtype, device: torch.device) -> None:
    """Raises UserError if the attention implementation that `load` names cannot run on this machine."""
    if load.attention != "flash_attention_2":
        return
    wanted = "load.attention flash_attention_2"
    if device.type != "cuda" or torch.cuda.get_device_capability()[0] < 8:
        raise UserError(f"{wanted} needs a GPU of compute capability 8.0 or more: set it to sdpa")
    if not is_flash_attn_2_available():
        raise UserError(f"{wanted} needs the package flash-attn: install it, or set it to sdpa")
    if dtype == torch.float32:
        raise UserError(f"{wanted} does not compute in float32: set load.dtype to bfloat16 or float16")


def make_skeleton(folder: Path, load: Load, auto_class=AutoModelForCausalLM, **changes):
    """The model in `folder` without weights, on the meta device; `changes`: to its configuration.

    Raises UserError if its architecture cannot be run.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **changes)
    check_architecture(config.model_type, str(folder))
    return skeleton_of(config, load, pick_dtype(load, default_device()), auto_class)


def skeleton_of(config, load: Load, dtype: torch.dtype, auto_class=AutoModelForCausalLM):
    """A model of this configuration without weights, on the meta device."""
    with torch.device("meta"):
        return auto_class.from_config(
            config,
            dtype=dtype,
            attn_implementation="eager" if load.attention == "eager" else None,
            trust_remote_code=False,
        )


def context_tokens(config) -> int | None:
    """Largest number of tokens that the configuration allows; None if it gives no limit."""
    config = config.get_text_config()
    if config.model_type in SHORT_ONLY and (limit := long_rope_limit(config)) is not None:
        return limit
    # MPT uses another name, and fails with longer inputs
    return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)


def read_context_tokens(folder: Path) -> int | None:
    """`context_tokens` of the model in `folder`."""
    return context_tokens(AutoConfig.from_pretrained(folder, local_files_only=True))


def memory_need(
    name: str, folder: Path, load: Load, rows: int, tokens: int, auto_class=AutoModelForCausalLM
) -> Need:
    """Memory that the model in `folder` needs for a batch of `rows` rows of `tokens` tokens."""
    skeleton = make_skeleton(folder, load, auto_class)
    working = rows * row_bytes(skeleton.config, skeleton.dtype.itemsize, tokens)
    return Need(name, block_bytes(skeleton, load), working)


def open_weights(folder: Path, stack: ExitStack) -> dict[str, object]:
    """Weights by name from the safetensors of `folder`; each is read only when it is sliced.

    Unlike memory-mapped files, plain reads leave only tensors that are in use in memory.
    Raises UserError if a file is missing.
    """
    index = folder / INDEX
    names = [SINGLE]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    weights: dict[str, object] = {}
    for path in (folder / name for name in names):
        if not path.is_file():
            raise UserError(f"{path} is missing: weights are read from safetensors only")
        file = stack.enter_context(safe_open(path, framework="pt", device="cpu", backend="pread"))
        weights |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118, no mapping
    return weights


def device_map(skeleton, placement: Mapping[str, int | str] | None):
    """transformers' device map: as placed; without a placement all GPUs, or None without GPUs."""
    if placement is None:
        return "auto" if default_device().type == "cuda" else None
    if len(set(placement.values())) == 1:
        return {"": next(iter(placement.values()))}
    tied = skeleton.all_tied_weights_keys.items()  # parameter names: target to source
    modules = {target.rpartition(".")[0]: source.rpartition(".")[0] for target, source in tied}
    return dict(placement) | {t: placement[s] for t, s in modules.items() if s in placement}


def load_model(
    folder: Path | str,
    load: Load,
    auto_class=AutoModelForCausalLM,
    placement: Mapping[str, int | str] | None = None,
    **changes,
):
    """A model from the safetensors in `folder`, in eval mode, on GPUs if there are any.

    `placement`: a GPU for each module, from `placement.place`; without it the layers are spread over
    all GPUs. `changes` override the model's configuration. Code from the model's repository is never
    run. Weights are quantized one by one as they are read. Raises UserError if weights are missing or
    if they take more or less memory than planned.
    """
    disable_progress_bar()  # the stages show their own progress bars
    folder = Path(folder)
    dtype = pick_dtype(load, default_device())
    check_gpus()
    check_attention(load, dtype, default_device())
    skeleton = make_skeleton(folder, load, auto_class, **changes)
    check_quantizable(skeleton, load, str(folder))
    with ExitStack() as stack:
        weights = open_weights(folder, stack)
        stack.enter_context(large_blocks_returned())
        # it reports missing weights, which are checked below
        logger = logging.getLogger("transformers.modeling_utils")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        model, report = type(skeleton).from_pretrained(
            None,
            config=AutoConfig.from_pretrained(folder, local_files_only=True, **changes),
            state_dict=weights,
            generation_config=generation_config(folder),
            dtype=dtype,
            attn_implementation=None if load.attention == "auto" else load.attention,
            quantization_config=quantization_config(load, dtype),
            device_map=device_map(skeleton, placement),
            output_loading_info=True,
        )
    # the score head of a reward model is new; all other weights must be in the files
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("score."))
    if missing:
        raise UserError(f"{folder}: its files lack weights: {missing[0]} and {len(missing) - 1} more")
    left_over = sorted(report["unexpected_keys"]) if auto_class is AutoModelForCausalLM else []
    if left_over:
        raise UserError(
            f"{folder}: its files have weights that the model does not use: {left_over[0]} and "
            f"{len(left_over) - 1} more"
        )
    require_finite_weights(model.named_parameters(), folder)
    model.name_or_path = model.config.name_or_path = str(folder)
    for module in model.modules():
        # bitsandbytes' fast 4-bit path for these CPUs repacks weights in place at the first forward pass
        # without gradients; later gradients are then silently wrong
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    check_footprint(model, sum(tensor_bytes(skeleton, load).values()), str(folder))
    use_onednn(model)
    return model.eval()


def generation_config(folder: Path) -> GenerationConfig | None:
    """The model's own generation settings; None if it has none."""
    if not (folder / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(folder, local_files_only=True)


def load_tokenizer(folder: Path, load: Load):
    """The tokenizer of the model in `folder`.

    It has the chat template that `load` names and a pad token that differs from its end token.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if load.chat_template is not None:
        tokenizer.chat_template = chat.PLAIN if load.chat_template == "plain" else load.chat_template
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token_id = spare_token(tokenizer)
    return tokenizer


def spare_token(tokenizer) -> int:
    """A token to pad with: never the end token and, if possible, one that occurs in no text.

    In order of preference: the unknown token, reserved tokens, the byte 0xFF, which never occurs in
    UTF-8 (GPT-2's only special token is its end token), and other special tokens.
    Raises UserError if there is no such token.
    """
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    vocabulary = tokenizer.get_vocab()
    reserved = [i for name, i in added.items() if re.search("pad|reserved|unused", name)]
    bytes_ = [vocabulary.get("ÿ"), vocabulary.get("<0xFF>")]  # byte-level spelling, byte fallback
    for token in [tokenizer.unk_token_id, *reserved, *bytes_, *added.values()]:
        if token not in (None, tokenizer.eos_token_id):
            return token
    raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no token that can be used as padding")
