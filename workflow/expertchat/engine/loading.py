"""Loading: weights and tokenizers from safetensors, at the precision that the settings ask for."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from expertchat import chat
from expertchat.errors import UserError
from expertchat.settings.models import Load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_dtype(load: Load, device: torch.device) -> torch.dtype:
    """The weights' type: as set, or the best that the device computes fast."""
    if load.dtype != "auto":
        return DTYPES[load.dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def quantization_config(load: Load, dtype: torch.dtype):
    """The bitsandbytes configuration that `load` asks for, None for none."""
    if load.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    if load.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_quantizable(config, load: Load) -> None:
    """Stops before the weights of fused experts are read, which would stay as large as they are.

    bitsandbytes replaces linear layers; transformers holds a mixture's experts as 3-D parameters.
    """
    experts = getattr(config.get_text_config(), "num_local_experts", 0)
    if load.quantization != "none" and experts:
        raise UserError(
            f"{config.name_or_path or config.model_type}: quantization {load.quantization} would leave "
            f"its {experts} fused experts as they are; set load.quantization to none for this model"
        )


def load_model(folder: Path, load: Load, auto_class=AutoModelForCausalLM, **kwargs):
    """A model from safetensors in `folder`, in eval mode, on the GPUs where there are some.

    No code of the model's repository is run. Several GPUs share the layers.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = pick_dtype(load, device)
    disable_progress_bar()  # the stages have bars of their own
    check_quantizable(AutoConfig.from_pretrained(folder, local_files_only=True), load)
    if device.type == "cuda":
        kwargs["device_map"] = "auto"
    model = auto_class.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=None if load.attention == "auto" else load.attention,
        quantization_config=quantization_config(load, dtype),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **kwargs,
    )
    for module in model.modules():
        # bitsandbytes' fast 4-bit path for such CPUs repacks weights in place at the first forward pass
        # without gradients, after which gradients are wrong without a word
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def load_tokenizer(folder: Path, load: Load):
    """The tokenizer of the model in `folder`, with the chat template that `load` asks for and a pad
    token that is not its end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if load.chat_template is not None:
        tokenizer.chat_template = chat.PLAIN if load.chat_template == "plain" else load.chat_template
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token_id = spare_token(tokenizer)
    return tokenizer


def spare_token(tokenizer) -> int:
    """A token to pad with, that ends no text and stands in none where that can be had.

    The unknown token is the usual stand-in; then come tokens that are reserved, and the byte 0xFF, which
    UTF-8 never holds: GPT-2's only special token is its end token.
    """
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    vocabulary = tokenizer.get_vocab()
    reserved = [i for name, i in added.items() if re.search("pad|reserved|unused", name)]
    bytes_ = [vocabulary.get("ÿ"), vocabulary.get("<0xFF>")]  # byte-level spelling, byte fallback
    for token in [tokenizer.unk_token_id, *reserved, *bytes_, *added.values()]:
        if token not in (None, tokenizer.eos_token_id):
            return token
    raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no token that could serve as padding")
