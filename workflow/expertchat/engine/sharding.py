"""All weights of a model trained by several processes, each of which holds a part of every weight.

A layer's weights are put together when it runs and dropped afterwards. Its gradients are summed, and a
process keeps those of its part, as it does the optimizer's moments (ZeRO stage 3, Rajbhandari et al.
2020; FSDP, Zhao et al. 2023, 2304.11277). All processes must make the same number of passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from expertchat.engine import parallel
from expertchat.engine.memory import layer_names

PART = "part-{}.safetensors"  # of a checkpoint: a process's parts of weights and moments
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


def shard(model: nn.Module) -> nn.Module:
    """The model, which is on the CPU, with each process's part of its weights in float32 on its device.

    Layer by layer, so that no device ever holds all of them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (parallel.count(),))
    for module in (*(model.get_submodule(name) for name in layer_names(model)), model):
        module.float().requires_grad_(True)
        # the default would leave the outer modules whole after a pass
        sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)  # a sum, not a mean
        sharded.set_force_sum_reduction_for_comms(True)  # gloo does not scale
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of the model's weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def copy_to(model: nn.Module, whole: nn.Module | None) -> None:
    """Copies the weights of a sharded model to `whole`, in its number format.

    Called by all processes; `whole` is None in those that only give their parts.
    """
    for name, parameter in model.named_parameters():
        tensor = parameter.full_tensor()
        if whole is not None:
            whole.get_parameter(name).data.copy_(tensor)


def save_part(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Writes this process's parts of weights and moments to `folder`."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.to_local()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}|{key}"] = value.to_local() if isinstance(value, DTensor) else value
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / PART.format(parallel.rank()))


def load_weights(model: nn.Module, folder: Path) -> None:
    """Restores the weights that the processes wrote by `save_part`, however many they were."""
    with ExitStack() as stack, torch.no_grad():
        parts = list(_open_parts(folder, stack))
        for name, parameter in model.named_parameters():
            parameter.copy_(_own_part(name, parameter, parts))


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Restores the optimizer's state that the processes wrote by `save_part`."""
    with ExitStack() as stack:
        parts = list(_open_parts(folder, stack))
        for name, parameter in model.named_parameters():
            state = optimizer.state[parameter]
            state["step"] = parts[0].get_tensor(f"{name}|step").to(parameter.device)  # as fused Adam's
            for key in MOMENTS:
                state[key] = _own_part(f"{name}|{key}", parameter, parts)


def _open_parts(folder: Path, stack: ExitStack) -> Iterator:
    """The files of all processes, in their order."""
    for number in range(len(list(folder.glob(PART.format("*"))))):
        yield stack.enter_context(safe_open(folder / PART.format(number), framework="pt"))


def _own_part(name: str, like: DTensor, parts: list) -> Tensor:
    """This process's part of a tensor, divided as `like` is."""
    whole = torch.cat([part.get_tensor(name) for part in parts]).to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
