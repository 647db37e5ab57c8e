"""Models and adapters in folders of the user: checked, and linked into the artifact."""

from __future__ import annotations

import json
from pathlib import Path

from expertchat.errors import UserError
from expertchat.models.checking import check_files, check_numbers, check_tokenizer
from expertchat.models.targets import TargetModules, check_targets, first_line, outline
from expertchat.settings.architectures import check_architecture


def link_model(source: Path, targets: TargetModules, out: Path, needs_template: bool = True) -> None:
    """Links a model's folder into the artifact `out`. `needs_template`: whether its own chat template
    will be used.

    Raises UserError if the folder is not a usable model, or has no layers named as in `targets`.
    """
    source = source.resolve()
    check_files(source)
    check_config(source, targets)
    if not list(source.glob("*.safetensors")):
        raise UserError(f"{source}: contains no *.safetensors, the only supported format of weights")
    check_tokenizer(source, needs_template)
    (out / "model").symlink_to(source)


def check_config(folder: Path, targets: TargetModules) -> None:
    """Checks the model in `folder` by its config.json alone. Raises UserError if it is not usable."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: config.json cannot be read ({error})") from None
    check_numbers(folder, config)
    if "auto_map" in config:
        raise UserError(f"{folder}: this model needs code from its repository, which is never run")
    check_architecture(config.get("model_type"), str(folder))
    if targets.by_key:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: config.json is not valid: {first_line(error)}") from None
        check_targets(targets, config, str(folder))


def link_adapter(source: Path, out: Path) -> None:
    """Links an adapter's folder into the artifact `out` of its model. Raises UserError if it misfits."""
    check_adapter(source, out / "model")
    (out / "adapter").symlink_to(source.resolve())


def check_adapter(adapter: Path, model: Path) -> None:
    """Raises UserError if the adapter's weights do not have the names and shapes that the model needs.

    No weights are read: the model is built on the meta device.
    """
    import peft
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = peft.PeftConfig.from_pretrained(adapter)
        with torch.device("meta"):
            adapted = outline(AutoConfig.from_pretrained(model), AutoModelForCausalLM)
            adapted = peft.get_peft_model(adapted, settings)
        expected = {k: list(v.shape) for k, v in peft.get_peft_model_state_dict(adapted).items()}
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            actual = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # peft raises many kinds of errors for invalid files of the user
        raise UserError(
            f"{adapter}: this adapter cannot be loaded on the model: {first_line(error)}"
        ) from None
    for key in sorted({*expected, *actual}):
        if expected.get(key) != actual.get(key):
            raise UserError(
                f"{adapter}: this adapter does not fit the model: the shape of {key} is "
                f"{actual.get(key, 'none')} in the adapter and {expected.get(key, 'none')} in the model"
            )
