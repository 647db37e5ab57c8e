"""The layers that LoRA adapters will adapt: checked by a model's configuration, before any other job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from expertchat.errors import UserError
from expertchat.settings.target_modules import Targets, find_target_modules


@dataclass(frozen=True)
class TargetModules:
    """The layers of a model that LoRA adapters will adapt: names to check before any other job runs."""

    by_key: Mapping[str, Targets] = field(default_factory=dict)  # settings key -> names
    quantized: bool = False  # whether the jobs that train load the model quantized


def check_targets(targets: TargetModules, config, source: str) -> None:
    """Raises UserError if a model of configuration `config` does not have the layers in `targets`.

    Those of "rewards.lora.target_modules" are looked up in the model with a score head, others in the
    causal language model. No weights are read.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    for key, names in targets.by_key.items():
        is_reward = key.startswith("rewards.")
        auto_class = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
        try:
            without_weights = outline(config, auto_class)
        except ValueError as error:  # transformers does not have this class for the architecture
            raise UserError(f"{source}: it cannot be trained: {first_line(error)}") from None
        find_target_modules(names, key, without_weights, source, targets.quantized)


def outline(config, auto_class):
    """A model of this configuration on the meta device, without weights."""
    import torch

    with torch.device("meta"):
        return auto_class.from_config(config, trust_remote_code=False)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
