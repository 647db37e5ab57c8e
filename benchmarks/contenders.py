"""What benchmarks share whose contenders run in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

TRL_ON_A_CPU = {  # arguments of TRL's trainers, for a plain training in float32 that writes nothing
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]  # the layers that get an adapter by default here


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The last line printed by a process, as JSON, with its peak resident memory as `peak_bytes`.

    Ends this program with the process's messages if it fails.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        own = os.environ | dict(environment or {})
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=own)
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        errors.seek(0)
        if status:
            raise SystemExit(f"{command[:4]} failed:\n{errors.read()[-3000:]}")
        return json.loads(out.read().splitlines()[-1]) | {"peak_bytes": usage.ru_maxrss * 1024}
