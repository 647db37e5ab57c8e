"""Whether the models of an experiment can be had without a network, as in jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import artifact_path, manifest_path
from expertchat.settings.models import DemoModel, HubModel, Model, PackageModel, Server, ShrunkModel

FETCH = "run `snakemake models` with these settings where there is a network, such as on a login node"


def check_models(
    configfiles: Sequence[Path], overrides: Sequence[str], root: Path, store: Path
) -> Iterator[Check]:
    """One check per model of the experiment, or the faults of its settings; and the hub's token."""
    try:
        experiment = read_experiment(read_config(configfiles, overrides), root)
        views = make_plan(experiment, root).views
    except UserError as error:
        for line in str(error).splitlines():
            if line.strip() != "invalid settings:":
                yield Check(PROBLEM, "settings", line.strip())
        return
    for name, model in experiment.models.items():
        reference = views.get(f"models/{name}", "")
        folder = artifact_path(store, reference) / "model"
        if reference and manifest_path(store, reference).exists() and folder.exists():
            yield Check(OK, f"model {name}", f"in the store, {reference}")
        elif folder.is_symlink():
            words = f"the store's link {folder} leads nowhere: its weights were moved or deleted"
            yield Check(PROBLEM, f"model {name}", f"{words}: restore them, or {FETCH}")
        else:
            yield _source(name, model)
    if any(model.source == "hub" for model in experiment.models.values()):
        yield _token()


def _source(name: str, model: Model) -> Check:
    """Whether the source of a model that is not in the store yet is there."""
    subject = f"model {name}"
    if isinstance(model, HubModel):
        return _cached(subject, model)
    if isinstance(model, PackageModel):
        words = f"the package {model.package} {model.version} is not in the store"
        return Check(WARNING, subject, f"{words}: {FETCH}")
    if isinstance(model, (DemoModel, ShrunkModel)):
        return Check(OK, subject, "made by the run itself")
    if model.source == "server":
        return _server(subject, model.load.server)
    return Check(OK, subject, f"{model.path} is there")  # or the settings would have a fault


def _server(subject: str, server: Server | None) -> Check:
    """Whether the variables with address and key of a server are set. Their values are not shown."""
    names = [name for name in (server and server.url_env, server and server.key_env) if name]
    unset = [name for name in names if name not in os.environ]
    if unset:
        words = f"{' and '.join(unset)} not set: set the address of the server, and its key"
        return Check(WARNING, subject, words)
    told = f"{' and '.join(names)} set; the server was not asked" if names else "its jobs start a server"
    return Check(OK, subject, told)


def _cached(subject: str, model: HubModel) -> Check:
    """Whether a model of the hub is in the cache; nothing is downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    from expertchat.models.hub import WEIGHTS

    wanted = f"{model.repository} at {model.revision}"
    try:
        found = snapshot_download(
            model.repository, revision=model.revision, allow_patterns=WEIGHTS, local_files_only=True
        )
    except (OSError, ValueError):  # LocalEntryNotFoundError is both
        return Check(WARNING, subject, f"{wanted} is not in the cache {HF_HUB_CACHE}: {FETCH}")
    weights = list(Path(found).glob("*.safetensors"))
    if not weights or not (Path(found) / "config.json").exists():
        return Check(WARNING, subject, f"{wanted} is in the cache without its weights: {FETCH}")
    size = sum(path.stat().st_size for path in weights) / 1e9
    return Check(OK, subject, f"{wanted} is in the cache {HF_HUB_CACHE}, {size:.1f} GB")


def _token() -> Check:
    """Whether there is a token of the hub. Its value is never shown."""
    from huggingface_hub import get_token

    if os.environ.get("HF_TOKEN"):
        return Check(OK, "HF_TOKEN", "set")
    if get_token():
        return Check(OK, "HF_TOKEN", "not set, but a token is stored (hf auth login)")
    return Check(OK, "HF_TOKEN", "not set; models that ask for a license need it")
