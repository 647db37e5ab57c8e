"""Models of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from expertchat.errors import UserError
from expertchat.models.folders import check_config, link_model
from expertchat.models.targets import TargetModules, first_line

WEIGHTS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # files fetched from the hub


def fetch_model(
    repository: str, revision: str, targets: TargetModules, out: Path, needs_template: bool = True
) -> None:
    """Downloads a model to the cache of the Hugging Face hub and links it. Needs the
    network. `needs_template`: whether its own chat template will be used.

    Checks the model's config.json against `targets` before it downloads the weights.
    """
    check_config(_download(repository, revision, ["config.json"]), targets)
    link_model(_download(repository, revision, WEIGHTS), TargetModules(), out, needs_template)


def _download(repository: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(
            f"{repository} is given only to those who accept its license: do so on its page of the "
            "Hugging Face hub, and set HF_TOKEN to a token of that account"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{repository} at {revision} cannot be downloaded: {first_line(error)}"
        ) from None
