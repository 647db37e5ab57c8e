"""LoRA adapters in peft's layout, loaded completely or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from expertchat.engine.finite import require_finite_weights
from expertchat.errors import UserError

WEIGHTS = "adapter_model.safetensors"


def add_adapter(model, folder: Path, name: str, *, trainable: bool = False):
    """The peft model that `model`, a base or a peft model, becomes with the adapter in `folder`.

    Raises UserError if the adapter's weights are not those that this model needs, by name and shape, or
    are not finite: peft leaves what is missing at its initial value and only warns.
    """
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = set(file.keys())
        if isinstance(model, PeftModel):
            model.load_adapter(folder, name, is_trainable=trainable)
        else:
            model = PeftModel.from_pretrained(model, folder, name, is_trainable=trainable)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: this adapter does not fit the model: {reason}") from None
    weights = get_peft_model_state_dict(model, adapter_name=name)
    differing = sorted(stored ^ set(weights))
    if differing:
        where = "the adapter" if differing[0] in stored else "the model"
        raise UserError(
            f"{folder}: this adapter does not fit the model: {differing[0]} is in {where} only "
            f"({len(differing)} such weights)"
        )
    require_finite_weights(weights.items(), folder)
    return model
