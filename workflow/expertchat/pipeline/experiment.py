"""From config files and overrides to a validated experiment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from expertchat.errors import UserError
from expertchat.foreign import one_line
from expertchat.pipeline.inputs import input_faults
from expertchat.pipeline.shrink import shrunk
from expertchat.settings.checks import cross_faults
from expertchat.settings.experiment import Experiment
from expertchat.settings.messages import sentences
from expertchat.settings.yaml_files import read_yaml

NESTED = re.compile(r"(\w[\w-]*(?:\.\w[\w-]*)+)=(.*)", re.DOTALL)  # ppo.steps=16
OVERRIDE = re.compile(r"([a-zA-Z_][\w-]*\w)=(.*)", re.DOTALL)  # the keys that snakemake accepts


def read_config(configfiles: Sequence[Path], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that snakemake makes of `--configfile` and `--config` (KEY=VALUE each).

    Later files override earlier ones, and `overrides` override the files. Raises UserError for a file
    that cannot be read and for an override that is not KEY=VALUE.
    """
    config: dict[str, Any] = {}
    for path in configfiles:
        _update(config, read_yaml(path, "see config/config.yaml for an example"))
    for override in overrides:
        match = OVERRIDE.fullmatch(override)
        if match is None:
            raise UserError(f"--config {override!r}: write {_meant(override)}")
        _update(config, {match[1]: _parse_value(match[2].strip("'\""))})
    return config


def _meant(override: str) -> str:
    """What may have been meant by an override that is not KEY=VALUE."""
    match = NESTED.fullmatch(override)
    if match is None:
        return "KEY=VALUE, for example rounds=2"
    outer, *inner = match[1].split(".")
    return f"'{outer}={''.join(f'{{{key}: ' for key in inner)}{match[2]}{'}' * len(inner)}'"


def _update(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with `changes` merged into it, nested mappings key by key (snakemake's update_config)."""
    for key, value in changes.items():
        if not isinstance(config, Mapping):
            config = {}
        config[key] = _update(config.get(key, {}), value) if isinstance(value, Mapping) else value
    return config


def _parse_value(text: str) -> Any:
    """The value of an override, by the rules of snakemake's parse_config.

    An empty text is None. Then the first of these that fits: integer, number, True or False, YAML whose
    scalars all stay strings (the validation of the settings converts them), and the text itself.
    """
    if not text:
        return None
    parsers: tuple[Callable[[str], Any], ...] = (int, float, {"True": True, "False": False}.__getitem__)
    for parse in parsers:
        try:
            return parse(text)
        except (ValueError, KeyError):
            continue
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)  # builds strings, lists, dicts only
    except (yaml.YAMLError, RecursionError):
        return text
    return text if value is None else value


def read_experiment(config: Mapping[str, Any], root: Path = Path(".")) -> Experiment:
    """The validated experiment, or its rehearsal. Relative paths in it are relative to `root`.

    Raises UserError with one sentence per problem: the key, the value and what is allowed.
    """
    try:
        experiment = Experiment.model_validate(dict(config))
    except ValidationError as error:
        faults = sentences(error, Experiment)
    else:
        faults = [*cross_faults(experiment)]
        try:
            if experiment.shrink and not faults:
                experiment = shrunk(experiment, root)
            faults += input_faults(experiment, root)
        except UserError as error:
            faults.append(str(error))
        except OSError as error:  # such as a name that no file can have
            faults.append(f"{one_line(str(error.filename), 200)}: {error.strerror}")
    if faults:
        raise UserError("invalid settings:\n  " + "\n  ".join(faults))
    return experiment
