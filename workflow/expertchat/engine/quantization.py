"""Quantization by bitsandbytes while the weights are read, including the fused experts of mixtures.

transformers stores Mixtral's experts as 3-D parameters, which bitsandbytes does not quantize. Here each
expert becomes separate linear layers again, as in the published checkpoints, before the weights are
read. Every layer is then quantized as soon as its tensor is read, uses bitsandbytes' 4-bit kernels, and
gives correct gradients to adapters without keeping a dequantized copy until the backward pass.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from expertchat.errors import UserError
from expertchat.settings.models import Load

NAMES = {"nf4": "expertchat_nf4", "int8": "expertchat_int8"}  # our quantizers in transformers' registry


class Expert(nn.Module):
    """One gated expert, w2(act(w1 x) * w3 x), with the names of Mixtral's published checkpoints."""

    def __init__(self, hidden: int, intermediate: int, activation: nn.Module):
        super().__init__()
        self.w1 = nn.Linear(hidden, intermediate, bias=False)
        self.w2 = nn.Linear(intermediate, hidden, bias=False)
        self.w3 = nn.Linear(hidden, intermediate, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, hidden] to [tokens, hidden]."""
        return self.w2(self.activation(self.w1(x)) * self.w3(x))


class Experts(nn.ModuleList):
    """A layer's experts as separate modules, called in the same way as transformers' fused ones."""

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the outputs of each token's experts, [tokens, hidden].

        `hidden` [tokens, hidden]; `chosen` [tokens, k] expert numbers; `weights` [tokens, k].
        """
        output = torch.zeros_like(hidden)
        for expert in chosen.unique().tolist():
            tokens, column = (chosen == expert).nonzero(as_tuple=True)
            weighted = self[expert](hidden[tokens]) * weights[tokens, column, None]
            output.index_add_(0, tokens, weighted.to(output.dtype))
        return output


def unfuse_experts(model: nn.Module) -> None:
    """Replaces each layer's fused experts with separate modules on the meta device, in place."""
    for name, fused in list(model.named_modules()):
        if isinstance(fused, MixtralExperts):
            with torch.device("meta"):
                experts = Experts(
                    Expert(fused.hidden_dim, fused.intermediate_dim, fused.act_fn)
                    for _ in range(fused.num_experts)
                )
            model.set_submodule(name, experts.to(fused.down_proj.dtype))


def check_quantizable(model: nn.Module, load: Load, name: str) -> None:
    """Raises UserError if `load` asks for quantization that would leave out fused experts.

    Only Mixtral's fused experts can be quantized. `model` may be on the meta device.
    """
    fused = [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), MixtralExperts)
    ]
    if load.quantization != "none" and fused:
        raise UserError(
            f"{name}: quantization {load.quantization} would not quantize its fused experts "
            f"({fused[0]} and {len(fused) - 1} more); set load.quantization to none for this model"
        )


class SplitExperts(ConversionOps):
    """Splits a checkpoint's fused parameter [experts, rows, columns] into one matrix per linear layer.

    `names`: the linear layers whose matrices are stacked in the rows.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    @torch.no_grad
    def convert(self, input_dict: dict[str, list[Tensor]], **kwargs) -> dict[str, Tensor]:
        """Views of the fused tensor, by target name."""
        ((fused,),) = input_dict.values()
        return {
            f".experts.{expert}.{name}.weight": part
            for expert, matrix in enumerate(fused)
            for name, part in zip(self.names, matrix.chunk(len(self.names)), strict=True)
        }

    @property
    def reverse_op(self) -> ConversionOps:
        """Not implemented: a model that is quantized while it is read is never saved."""
        raise NotImplementedError("a model that was quantized while it was read cannot be saved")


# fused parameters, and the linear layers that are stacked in their rows
FUSED = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}


class UnfusedExperts(HfQuantizer):
    """Mixin for transformers' quantizers: separate experts in place of fused ones."""

    def __init__(self, quantization_config: BitsAndBytesConfig, **kwargs):
        # our name is needed only to select this class; other code must see a bitsandbytes model
        quantization_config.quant_method = QuantizationMethod.BITS_AND_BYTES
        super().__init__(quantization_config, **kwargs)

    def _process_model_before_weight_loading(self, model, **kwargs):
        unfuse_experts(model)
        super()._process_model_before_weight_loading(model, **kwargs)

    def update_weight_conversions(self, weight_conversions, model):
        """Keeps experts that the checkpoint stores separately, and splits fused ones."""
        if any(isinstance(module, Experts) for module in model.modules()):
            targets = {f".experts.{name}" for name in FUSED}
            weight_conversions = [c for c in weight_conversions if targets.isdisjoint(c.target_patterns)]
            weight_conversions += [
                WeightConverter(
                    f".experts.{name}", f".experts.0.{parts[0]}.weight", [SplitExperts(parts)]
                )
                for name, parts in FUSED.items()
            ]
        return super().update_weight_conversions(weight_conversions, model)

    def adjust_max_memory(self, max_memory):
        """Leaves the limits unchanged: our placement already includes a margin."""
        return max_memory


@register_quantizer(NAMES["nf4"])
class Quantizer4Bit(UnfusedExperts, Bnb4BitHfQuantizer):
    """nf4 for all linear layers, including experts, except the output head."""


@register_quantizer(NAMES["int8"])
class Quantizer8Bit(UnfusedExperts, Bnb8BitHfQuantizer):
    """LLM.int8() for all linear layers, including experts, except the output head."""


def quantization_config(load: Load, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """The configuration for `load`; None if it asks for none. `dtype`: type of the products."""
    if load.quantization == "none":
        return None
    if load.quantization == "int8":
        # it warns at each product that activations are cast, but the method requires that
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    config.quant_method = NAMES[load.quantization]
    return config
