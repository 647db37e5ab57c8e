"""Memory of weights and caches: planned from the configuration alone, and measured after loading."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from expertchat.errors import UserError
from expertchat.settings.models import Load

TOLERANCE = 0.1  # largest relative difference between the planned and the measured bytes of a model
NF4_BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes: weights per scale, scales per second-level scale
GIB = 2**30


def token_bytes(config, element_size: int) -> int:
    """Bytes of keys and values per token, over all layers."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * element_size


def row_bytes(config, element_size: int, tokens: int) -> int:
    """Bytes that a row of `tokens` tokens needs in addition to the weights.

    They are its KV cache, one layer's activations, the 32-bit logits of one position in two copies, and
    what drawing needs at worst: all tokens sorted, with 64-bit ids and probabilities.
    """
    config = config.get_text_config()
    token = token_bytes(config, element_size) + 16 * config.hidden_size * element_size
    return tokens * token + config.vocab_size * 64


def nf4_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in nf4 with double quantization (QLoRA, Dettmers et al. 2023, section 3).

    Two weights per byte; one byte per scale; one 32-bit second-level scale per block of scales; the
    mean of the scales; and the tables of the 16 levels of weights and the 256 levels of scales.
    """
    weights = rows * columns
    scales = math.ceil(weights / NF4_BLOCK)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / NESTED_BLOCK) + 4 + (16 + 256) * 4


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in int8 with one 32-bit scale per row (LLM.int8(), Dettmers et al. 2022)."""
    return rows * columns + 4 * rows


MATRIX_BYTES = {"nf4": nf4_bytes, "int8": int8_bytes}
EXPERT_MATRICES = {"gate_up_proj": 2, "down_proj": 1}  # matrices per expert in a fused parameter


def tensor_bytes(skeleton: nn.Module, load: Load) -> dict[str, int]:
    """Planned bytes of each parameter and buffer of a model on the meta device; tied ones count once.

    The matrices of linear layers and of fused experts are quantized, but not the output head.
    """
    size = {n: p.numel() * p.element_size() for n, p in skeleton.named_parameters()}
    if load.quantization != "none":
        matrix = MATRIX_BYTES[load.quantization]
        unquantized = set(get_keys_to_not_convert(skeleton))
        for name, parameter in skeleton.named_parameters():
            module, _, leaf = name.rpartition(".")
            if module in unquantized or name in unquantized:
                continue
            if parameter.dim() == 3 and leaf in EXPERT_MATRICES:
                experts, rows, columns = parameter.shape
                parts = EXPERT_MATRICES[leaf]
                size[name] = experts * parts * matrix(rows // parts, columns)
            elif leaf == "weight" and isinstance(skeleton.get_submodule(module), nn.Linear | Conv1D):
                size[name] = matrix(*parameter.shape)
    return size | {n: b.numel() * b.element_size() for n, b in skeleton.named_buffers()}


def layer_names(model: nn.Module) -> list[str]:
    """The names of a model's layers, in the order they run."""
    kinds = set(model._no_split_modules or [])
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]


def block_bytes(skeleton: nn.Module, load: Load) -> dict[str, int]:
    """Planned bytes of each module that must not be split between devices, in the order they run.

    These modules are the layers and the modules outside the layers. Modules without weights come first.
    """
    modules = {name: i for i, (name, _) in enumerate(skeleton.named_modules())}
    layers = layer_names(skeleton)

    def block(tensor: str) -> str:
        return next((n for n in layers if tensor.startswith(n + ".")), tensor.rpartition(".")[0])

    blocks: dict[str, int] = {}
    for name, size in tensor_bytes(skeleton, load).items():
        blocks[block(name)] = blocks.get(block(name), 0) + size
    with_weights = {block(name) for name, _ in skeleton.named_parameters()}
    return {n: blocks[n] for n in sorted(blocks, key=lambda n: (n in with_weights, modules[n]))}


def _stored_tensors(model: nn.Module) -> Iterator[Tensor]:
    """All tensors of a model, including the scales of quantized weights."""
    for parameter in model.parameters():
        yield parameter
        for state in (getattr(parameter, "quant_state", None), getattr(parameter, "SCB", None)):
            if isinstance(state, Tensor):
                yield state
            elif state is not None:
                yield from (state.absmax, state.code)
                if state.nested:
                    yield from (state.offset, state.state2.absmax, state.state2.code)
    yield from model.buffers()


def footprint(model: nn.Module) -> int:
    """Bytes of a loaded model on all devices; storage that tensors share counts once."""
    storages = {
        (t.device, s.data_ptr()): s.nbytes()
        for t in _stored_tensors(model)
        for s in [t.untyped_storage()]
    }
    return sum(storages.values())


def check_footprint(model: nn.Module, planned: int, name: str) -> None:
    """Raises UserError if a loaded model's bytes differ from the plan by more than `TOLERANCE`."""
    measured = footprint(model)
    if abs(measured - planned) > TOLERANCE * planned:
        name_of_largest, largest = max(model.named_parameters(), key=lambda item: item[1].nbytes)
        raise UserError(
            f"{name}: its weights take {measured / GIB:.3f} GiB in memory, but {planned / GIB:.3f} GiB "
            f"were planned; the largest is {name_of_largest} in {largest.dtype}: check whether "
            "load.quantization and load.dtype were applied to it, and the versions of transformers and "
            "bitsandbytes"
        )


LARGE, LARGEST = 2**17, 2**25  # bytes: initial and largest value of glibc's threshold for mmap
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in glibc's malloc.h


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Inside this context, freed blocks of 128 KiB and more are returned to the system at once.

    Otherwise glibc raises its threshold with each large block that is freed, and quantization leaves
    holes in the heap that add up to several times the model's size. Without glibc it has no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, LARGE)
    mallopt(TRIM_THRESHOLD, LARGE)
    try:
        yield
    finally:  # the values that glibc itself grows to, so that activations stay in the heap
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2 * LARGEST)
