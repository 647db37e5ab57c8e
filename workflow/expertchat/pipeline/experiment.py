"""From a configuration to a validated experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from expertchat.errors import UserError
from expertchat.pipeline.inputs import input_faults
from expertchat.settings.checks import cross_faults
from expertchat.settings.experiment import Experiment
from expertchat.settings.messages import sentences


def read_experiment(config: Mapping[str, Any], root: Path = Path(".")) -> Experiment:
    """The validated experiment; relative paths in it count from `root`.

    Raises UserError with a sentence for each fault: the key, the value and what is allowed.
    """
    try:
        experiment = Experiment.model_validate(dict(config))
    except ValidationError as error:
        faults = sentences(error, Experiment)
    else:
        faults = [*cross_faults(experiment), *input_faults(experiment, root)]
    if faults:
        raise UserError("invalid settings:\n  " + "\n  ".join(faults))
    return experiment
