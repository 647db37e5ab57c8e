"""Models that only a server has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat.records import write_json


def write_server(server: Mapping[str, Any], out: Path) -> None:
    """Writes server.json: how the server of a model is started or named. The artifact has no weights."""
    write_json(out / "server.json", server)
