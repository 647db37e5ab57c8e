"""Measures host memory while a sharded Mixtral is quantized during loading; writes docs/benchmarks.md.

    PYTHONPATH=workflow python benchmarks/loading.py

Makes a random Mixtral of 0.7 GB in a temporary folder. Each load runs in its own process, after loading
a tiny model, so that the one-time cost of a first load is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import markdown_table, record

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
LARGE = {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 4}
MB = 10**6


def make_mixtral(folder: Path, sizes: dict[str, int], file_size: str) -> list[int]:
    """Writes a random Mixtral in bfloat16; returns the size of each file in bytes."""
    import torch
    from transformers import AutoModelForCausalLM, MixtralConfig

    torch.manual_seed(0)
    config = MixtralConfig(vocab_size=4096, num_attention_heads=8, num_key_value_heads=4, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=file_size)
    return [file.stat().st_size for file in folder.glob("*.safetensors")]


def resident(key: str) -> int:
    """Bytes of this process: "VmRSS" resident now, "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def load_with_transformers(folder: Path, quantization: str):
    """The model as loaded by transformers and bitsandbytes alone."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantization == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config)


def load_with_expertchat(folder: Path, quantization: str):
    """The model as loaded by the workflow's stages."""
    from expertchat.engine.loading import load_model
    from expertchat.settings.models import Load

    return load_model(folder, Load(dtype="bfloat16", quantization=quantization))


def measure(loader: str, quantization: str, warm: str, folder: str) -> None:
    """Prints one load's cost as JSON: bytes of weights, peak bytes above the level before, seconds."""
    from expertchat.engine.memory import footprint

    load = {"expertchat": load_with_expertchat, "transformers": load_with_transformers}[loader]
    load(Path(warm), quantization)
    before, began = resident("VmRSS"), time.perf_counter()
    model = load(Path(folder), quantization)
    seconds = time.perf_counter() - began
    held = footprint(model)
    print(json.dumps({"held": held, "peak": resident("VmHWM") - before, "seconds": seconds}))


def main() -> None:
    """Measures both loaders at both precisions and records the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_mixtral(folder / "warm", SMALL, "1GB")
        files = make_mixtral(folder / "model", LARGE, "100MB")
        rows = []
        for quantization in ("nf4", "int8"):
            for loader, label in (
                ("expertchat", "this project"),
                ("transformers", "transformers by itself"),
            ):
                command = [sys.executable, __file__, loader, quantization]
                run = subprocess.run(
                    [*command, folder / "warm", folder / "model"],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found = json.loads(run.stdout.splitlines()[-1])
                bound = 1.3 * found["held"] + max(files)
                limit = f"{bound / MB:.0f}" if loader == "expertchat" else ""
                figures = [f"{found['held'] / MB:.0f}", f"{found['peak'] / MB:.0f}", limit]
                rows.append([quantization, label, *figures, f"{found['seconds']:.0f}"])
    head = [
        "precision",
        "loaded by",
        "weights, MB",
        "peak host memory, MB",
        "limit, MB",
        "seconds",
    ]
    body = (
        f"A random Mixtral of {sum(files) / MB:.0f} MB in bfloat16, {len(files)} files of at most "
        f"{max(files) / MB:.0f} MB, on the CPU. The peak is the process's resident memory above its "
        "level before the load, memory-mapped files included. Limit: 1.3 times the quantized size plus "
        "one file. transformers by itself leaves the fused experts unquantized.\n\n"
        + markdown_table(head, rows)
    )
    record("Loading a quantized Mixtral", "benchmarks/loading.py", body)


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()
