"""Stage models: brings each model into the store.

An artifact has a folder `model` in the Hugging Face layout and, if the settings name an adapter, a
folder `adapter` in peft's layout. Demo models are trained here; other models and adapters are symbolic
links to their folder or to the cache of the Hugging Face hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.records import write_json
from expertchat.settings.architectures import check_architecture
from expertchat.settings.target_modules import check_target_modules

WEIGHTS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # files fetched from the hub


@dataclass(frozen=True)
class TargetModules:
    """The layers of a model that LoRA adapters will adapt: names to check before any other job runs."""

    by_key: Mapping[str, Sequence[str]] = field(default_factory=dict)  # settings key -> names
    quantized: bool = False  # whether the jobs that train load the model quantized


def make_demo_model(settings: Mapping[str, Any], targets: TargetModules, out: Path) -> None:
    """Trains a demo model and writes its metrics to metrics.json."""
    from transformers import AutoConfig

    from expertchat.demo.build import build_model

    architecture = settings["architecture"]
    check_targets(targets, AutoConfig.for_model(architecture), f"the demo's {architecture}")
    metrics = build_model(
        out / "model",
        architecture=architecture,
        knows=settings["knows"],
        seed=settings["seed"],
        steps=settings["steps"],
        prompts=settings["prompts"],
        world_seed=settings["world"]["seed"],
    )
    write_json(out / "metrics.json", metrics)


def link_model(source: Path, targets: TargetModules, out: Path) -> None:
    """Links a model's folder into the artifact `out`.

    Raises UserError if the folder is not a usable model, or has no layers named as in `targets`.
    """
    source = source.resolve()
    check_config(source, targets)
    if not list(source.glob("*.safetensors")):
        raise UserError(f"{source}: contains no *.safetensors, the only supported format of weights")
    (out / "model").symlink_to(source)


def check_config(folder: Path, targets: TargetModules) -> None:
    """Checks the model in `folder` by its config.json alone. Raises UserError if it is not usable."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}: config.json cannot be read ({error})") from None
    if "auto_map" in config:
        raise UserError(f"{folder}: this model needs code from its repository, which is never run")
    check_architecture(config.get("model_type"), str(folder))
    if targets.by_key:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder}: config.json is not valid: {_first_line(error)}") from None
        check_targets(targets, config, str(folder))


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
            outline = _outline(config, auto_class)
        except ValueError as error:  # transformers does not have this class for the architecture
            raise UserError(f"{source}: it cannot be trained: {_first_line(error)}") from None
        check_target_modules(names, key, outline, source, targets.quantized)


def _outline(config, auto_class):
    """A model of this configuration on the meta device, without weights."""
    import torch

    with torch.device("meta"):
        return auto_class.from_config(config, trust_remote_code=False)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


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
            outline = _outline(AutoConfig.from_pretrained(model), AutoModelForCausalLM)
            outline = peft.get_peft_model(outline, settings)
        expected = {k: list(v.shape) for k, v in peft.get_peft_model_state_dict(outline).items()}
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            actual = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # peft raises many kinds of errors for invalid files of the user
        raise UserError(
            f"{adapter}: this adapter cannot be loaded on the model: {_first_line(error)}"
        ) from None
    for key in sorted({*expected, *actual}):
        if expected.get(key) != actual.get(key):
            raise UserError(
                f"{adapter}: this adapter does not fit the model: the shape of {key} is "
                f"{actual.get(key, 'none')} in the adapter and {expected.get(key, 'none')} in the model"
            )


def write_server(server: Mapping[str, Any], out: Path) -> None:
    """Writes server.json: how the server of a model is started or named. The artifact has no weights."""
    write_json(out / "server.json", server)


def fetch_model(repository: str, revision: str, targets: TargetModules, out: Path) -> None:
    """Downloads a model to the cache of the Hugging Face hub and links it. Needs the network.

    Checks the model's config.json against `targets` before it downloads the weights.
    """
    check_config(_download(repository, revision, ["config.json"]), targets)
    link_model(_download(repository, revision, WEIGHTS), TargetModules(), out)


def _download(repository: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{repository} at {revision} cannot be downloaded: {_first_line(error)}"
        ) from None
