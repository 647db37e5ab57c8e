"""Memory: what weights and caches are planned to take, by configuration alone, and what they took."""

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

TOLERANCE = 0.1  # of the planned bytes: what a loaded model may be off by
NF4_BLOCK, NESTED_BLOCK = 64, 256  # weights a scale, and scales a scale of scales, in bitsandbytes
GIB = 2**30


def token_bytes(config, element_size: int) -> int:
    """Bytes of keys and values a token, over all layers."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * element_size


def row_bytes(config, element_size: int, tokens: int) -> int:
    """Working bytes of a row of `tokens` tokens.

    That is its cache, a layer's activations, and logits of one position in 32 bits with a sorted copy.
    """
    config = config.get_text_config()
    token = token_bytes(config, element_size) + 16 * config.hidden_size * element_size
    return tokens * token + config.vocab_size * 24


def nf4_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in nf4 with double quantization: two weights a byte, and their scales.

    Scales take a byte each, with a 32-bit scale a block of them, their mean, and the tables of the 16
    levels of weights and the 256 of scales. (QLoRA, Dettmers et al. 2023, section 3.)
    """
    weights = rows * columns
    scales = math.ceil(weights / NF4_BLOCK)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / NESTED_BLOCK) + 4 + (16 + 256) * 4


def int8_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix in int8 with a 32-bit scale a row. (LLM.int8(), Dettmers et al. 2022.)"""
    return rows * columns + 4 * rows


MATRIX_BYTES = {"nf4": nf4_bytes, "int8": int8_bytes}
EXPERT_MATRICES = {"gate_up_proj": 2, "down_proj": 1}  # matrices that an expert's fused rows hold


def tensor_bytes(skeleton: nn.Module, load: Load) -> dict[str, int]:
    """Planned bytes of each parameter and buffer of a model on the meta device, tied ones once.

    Quantized: the matrices of linear layers and of fused experts, but not the output head.
    """
    size = {n: p.numel() * p.element_size() for n, p in skeleton.named_parameters()}
    if load.quantization != "none":
        matrix, whole = MATRIX_BYTES[load.quantization], set(get_keys_to_not_convert(skeleton))
        for name, parameter in skeleton.named_parameters():
            module, _, leaf = name.rpartition(".")
            if module in whole or name in whole:
                continue
            if parameter.dim() == 3 and leaf in EXPERT_MATRICES:
                experts, rows, columns = parameter.shape
                parts = EXPERT_MATRICES[leaf]
                size[name] = experts * parts * matrix(rows // parts, columns)
            elif leaf == "weight" and isinstance(skeleton.get_submodule(module), nn.Linear | Conv1D):
                size[name] = matrix(*parameter.shape)
    return size | {n: b.numel() * b.element_size() for n, b in skeleton.named_buffers()}


def block_bytes(skeleton: nn.Module, load: Load) -> dict[str, int]:
    """Planned bytes by module, for the modules that stay whole on one device, in order.

    Those are the layers, and what lies outside of them. What holds no weights comes first.
    """
    modules = {name: i for i, (name, _) in enumerate(skeleton.named_modules())}
    kinds = set(skeleton._no_split_modules or [])
    layers = [n for n in modules if type(skeleton.get_submodule(n)).__name__ in kinds]

    def block(tensor: str) -> str:
        return next((n for n in layers if tensor.startswith(n + ".")), tensor.rpartition(".")[0])

    blocks: dict[str, int] = {}
    for name, size in tensor_bytes(skeleton, load).items():
        blocks[block(name)] = blocks.get(block(name), 0) + size
    weighty = {block(name) for name, _ in skeleton.named_parameters()}
    return {n: blocks[n] for n in sorted(blocks, key=lambda n: (n in weighty, modules[n]))}


def _held(model: nn.Module) -> Iterator[Tensor]:
    """All tensors that a model holds, the scales of quantized weights included."""
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
    """Bytes that a loaded model holds, on all devices; storage that tensors share counts once."""
    storages = {
        (t.device, s.data_ptr()): s.nbytes() for t in _held(model) for s in [t.untyped_storage()]
    }
    return sum(storages.values())


def check_footprint(model: nn.Module, planned: int, name: str) -> None:
    """Raises UserError where a model that was just loaded is off by more than a tenth of the plan."""
    found = footprint(model)
    if abs(found - planned) > TOLERANCE * planned:
        name_of_largest, largest = max(model.named_parameters(), key=lambda item: item[1].nbytes)
        raise UserError(
            f"{name}: its weights take {found / GIB:.3f} GiB in memory, and {planned / GIB:.3f} GiB "
            f"were planned; the largest is {name_of_largest} in {largest.dtype}: look whether "
            "load.quantization and load.dtype reached it, and at the versions of transformers and "
            "bitsandbytes"
        )


LARGE, LARGEST = 2**17, 2**25  # bytes; what glibc's limit starts at, and the most that it takes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_... of glibc's malloc.h


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within it, freed blocks of 128 KiB and more go back to the system at once.

    glibc else raises its own limit with each large block that is freed, and quantizing leaves the heap
    full of holes that add up to several times the model. Elsewhere than on glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(MMAP_THRESHOLD, LARGE)
    mallopt(TRIM_THRESHOLD, LARGE)
    try:
        yield
    finally:  # what its own limits grow to, so that activations stay in the heap
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2 * LARGEST)
