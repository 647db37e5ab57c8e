"""PyTorch, the GPUs that it sees, and bitsandbytes on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from expertchat.console import silence_libraries
from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check

GB = 10**9
BUSY = 0.9  # share of a GPU's memory; with less of it free, another program uses the GPU
LARGEST_ERROR = 0.2  # of a product with weights in nf4, relative to it with the weights themselves


def check_torch() -> Iterator[Check]:
    """The build of PyTorch, each GPU that it sees, and a product with weights in 4 bit."""
    silence_libraries()
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(PROBLEM, "PyTorch", f"it cannot be imported: {error}: install it again (make env)")
        return
    builds = torch.cuda.get_arch_list()
    kernels = f", kernels for {', '.join(builds)}" if builds else ""
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield Check(OK, "PyTorch", f"{torch.__version__}, {cuda}{kernels}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield _no_gpu()
    usable = True
    for gpu in range(count):
        check = _gpu(gpu, builds)
        usable &= check.level != PROBLEM
        yield check
    if usable:
        yield check_nf4("cuda" if count else "cpu")


def _no_gpu() -> Check:
    """No GPU: a problem if there should be one."""
    from expertchat.engine.loading import why_no_gpu

    given, device = os.environ.get("SLURM_JOB_GPUS"), os.environ.get("EXPERTCHAT_DEVICE")
    if not given and not Path("/dev/nvidia0").exists():
        return Check(OK, "GPU", "none: models run on the CPU")
    whose = f"SLURM gave the GPUs {given} to this job" if given else "this machine has an NVIDIA GPU"
    words = f"{whose}, but {why_no_gpu()}"
    return Check(WARNING if device == "cpu" else PROBLEM, "GPU", words)


def _gpu(gpu: int, builds: list[str]) -> Check:
    """What one GPU has, and whether this PyTorch runs on it."""
    import torch

    from expertchat.engine.loading import has_kernels

    capability = torch.cuda.get_device_capability(gpu)
    subject = f"GPU {gpu}"
    name = f"{torch.cuda.get_device_name(gpu)}, capability {capability[0]}.{capability[1]}"
    if builds and not has_kernels(capability, builds):
        hint = "install a build of PyTorch that has some (make env CUDA=cu126 for a V100)"
        return Check(PROBLEM, subject, f"{name}: this PyTorch has no kernels for it: {hint}")
    with torch.cuda.device(gpu):
        free, total = torch.cuda.mem_get_info()
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    words = f"{name}, {free / GB:.1f} of {total / GB:.1f} GB free, "
    words += "bfloat16" if bf16 else "no bfloat16 (float16 is used)"
    if free < BUSY * total:
        return Check(WARNING, subject, f"{words}: another program uses it (nvidia-smi shows which)")
    return Check(OK, subject, words)


def check_nf4(device: str) -> Check:
    """Multiplies with weights that bitsandbytes packed in nf4, and compares with the weights."""
    subject = "bitsandbytes"
    try:
        import bitsandbytes
        import torch
        from bitsandbytes.functional import quantize_4bit

        dtype = torch.float16 if device == "cuda" else torch.float32
        draws = torch.Generator().manual_seed(0)
        weights = torch.randn(128, 256, generator=draws).to(device, dtype)
        inputs = torch.randn(4, 256, generator=draws).to(device, dtype)
        packed, state = quantize_4bit(weights, quant_type="nf4")
        product = bitsandbytes.matmul_4bit(inputs, packed.t(), quant_state=state).float()
        expected = inputs.float() @ weights.float().t()
        error = float((product - expected).norm() / expected.norm())
    except (ImportError, OSError, RuntimeError) as reason:
        hint = "load.quantization cannot be used; install it again (make env)"
        return Check(PROBLEM, subject, f"4 bit does not work on {device}: {reason}: {hint}")
    words = f"{bitsandbytes.__version__}, nf4 on {device}: relative error {error:.2f}"
    if error > LARGEST_ERROR:
        return Check(PROBLEM, subject, f"{words}, which is too large: do not use load.quantization")
    return Check(OK, subject, words)
