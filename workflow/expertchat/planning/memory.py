"""Memory of a job by part, on its fullest GPU or, without GPUs, on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import get_peft_model
from torch import nn

from expertchat.engine.activations import MOMENTS, row_activations
from expertchat.engine.batches import MAX_PASS_TOKENS, MAX_ROWS, SHARE
from expertchat.engine.memory import row_bytes, token_bytes
from expertchat.engine.opening import WORKING_ROWS, WORKING_TOKENS
from expertchat.engine.placement import Need, place, place_copies
from expertchat.engine.score.scoring import MAX_LOGITS
from expertchat.engine.training import FULL_BYTES, LARGEST_SHARE, lora_config
from expertchat.errors import UserError
from expertchat.planning.machine import CONTEXT, GIB, Machine
from expertchat.planning.models import PlannedModel
from expertchat.planning.work import Work
from expertchat.settings.lora import LoRA

LOGITS = 14  # bytes of a logit in training (sft.training)
# of the host: Python with PyTorch and transformers and, where it trains, peft and TRL
PROGRAM, TRAINER = round(0.45 * GIB), round(0.57 * GIB)
PARTS = ("program", "weights", "adapters", "optimizer", "activations", "cache", "logits")


@dataclass(frozen=True)
class Memory:
    """Bytes of each part (`PARTS`) on the fullest GPU, or on the host where there is none.

    `devices`: the GPUs of each model, of several copies the first one's. `texts`: in one pass of
    training, or rows drawn at a time. `copies`: of the model, which share the work. `problem`: why the
    job cannot run, and what it could run with; None if it can.
    """

    parts: Mapping[str, int]
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    texts: int = 0
    copies: int = 1
    problem: str | None = None

    @property
    def peak(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


def inference(models: Sequence[PlannedModel], works: Mapping[str, Work], machine: Machine) -> Memory:
    """Memory of a job that reads and draws, with its models side by side where GPUs suffice."""
    if not machine.gpus:
        return _on_the_host(models, works, machine)
    try:
        placed, copies = _placed(models, machine)
    except UserError as error:
        weights = sum(sum(model.blocks.values()) for model in models)
        return Memory({"weights": weights}, problem=str(error))
    devices = {model.name: tuple(sorted(set(placed[model.name].values()))) for model in models}
    used = [0] * len(machine.gpus)
    for model in models:
        for name, gpu in placed[model.name].items():
            used[gpu] += model.blocks[name]
    found = []
    for model in models:
        gpus = devices[model.name]
        fullest = max(gpus, key=lambda gpu: used[gpu])
        left = machine.free[fullest] - used[fullest]
        parts, rows = _inference_parts(model, works[model.name], left, len(gpus))
        found.append(({"program": CONTEXT, "weights": used[fullest], **parts}, rows))
    largest, rows = max(found, key=lambda one: sum(one[0].values()))
    return Memory(largest, devices, rows, copies)


def _on_the_host(models: Sequence[PlannedModel], works: Mapping[str, Work], machine: Machine) -> Memory:
    """`inference` without GPUs: each model in a process of its own."""
    weights = sum(sum(model.blocks.values()) for model in models)
    left = machine.host - weights - PROGRAM * len(models)
    found = [_inference_parts(model, works[model.name], left) for model in models]
    parts = {part: sum(parts[part] for parts, _ in found) for part in ("activations", "cache", "logits")}
    parts = {"program": PROGRAM * len(models), "weights": weights, **parts}
    problem = None
    if left < 0:
        problem = f"{weights / GIB:.1f} GiB of weights do not fit into {machine.host / GIB:.1f} GiB"
    return Memory(parts, texts=max(rows for _, rows in found), problem=problem)


def _placed(
    models: Sequence[PlannedModel], machine: Machine
) -> tuple[dict[str, Mapping[str, int]], int]:
    """(a GPU for each module by model, copies): as `engine.opening` places them. Of several copies of a
    model, the first one's. Raises UserError if the models do not fit."""
    needs = [_need(model) for model in models]
    if len(models) == 1:
        copies = place_copies(needs[0], machine.free)
        return {models[0].name: copies[0]}, len(copies)
    placement = place(needs, machine.free)
    return {m.name: d for m, d in zip(models, placement.devices, strict=True)}, 1


def _need(model: PlannedModel) -> Need:
    """What the engine places a model by (`loading.memory_need`)."""
    working = WORKING_ROWS * row_bytes(model.config, model.dtype.itemsize, WORKING_TOKENS)
    return Need(model.name, model.blocks, working)


def _inference_parts(
    model: PlannedModel, work: Work, left: int, gpus: int = 1
) -> tuple[dict[str, int], int]:
    """(bytes of activations, cache and logits, rows at a time) of a model that is spread over `gpus`
    devices, the fullest of which has `left` bytes left for them."""
    size, config = model.dtype.itemsize, model.config.get_text_config()
    drawn = row_bytes(config, size, work.longest)
    room = int(SHARE * left * gpus)
    rows = min(work.rows, model.batch_size, MAX_ROWS, max(1, room // drawn)) if work.rows else 0
    most = MAX_PASS_TOKENS["cuda" if model.on_gpu else "cpu"]
    token = row_bytes(config, size, 1) - row_bytes(config, size, 0)
    passed = max(work.longest, min(most, room // token)) if work.read else 0
    at_once = max(rows * work.longest, passed)
    parts = {
        "activations": at_once * (token - token_bytes(config, size)) // gpus,
        "cache": at_once * token_bytes(config, size) // gpus,
        "logits": max(rows * row_bytes(config, size, 0), 4 * MAX_LOGITS if passed else 0),
    }
    return parts, rows


@dataclass(frozen=True)
class Training:
    """How a stage trains. `loras`: its adapters by section of the settings, of which the first is
    trained and the others are only used; empty if all weights are trained. `again`: gradient
    checkpointing. `length`: the setting of the longest text. `texts`: the most of one pass. `head`:
    whether a pass computes all logits.
    """

    loras: Mapping[str, LoRA]
    again: bool
    length: str
    texts: int
    head: bool = False


def training(model: PlannedModel, work: Work, machine: Machine, how: Training) -> Memory:
    """Memory of a job that trains: by as many processes as there are GPUs if each has room for its copy
    or its part of the model, else by one, with the model's layers on all GPUs."""
    devices = machine.free or [machine.host - TRAINER]
    skeletons = [_adapted(model, key, lora) for key, lora in how.loras.items()]
    skeletons = skeletons or [model.skeleton().float().requires_grad_(True)]
    sizes = [sum(p.numel() for p in s.parameters() if p.requires_grad) for s in skeletons]
    row = row_activations(skeletons[0], work.longest, how.again)
    fixed = {"weights": 4 * sizes[0], "adapters": 0, "optimizer": MOMENTS * sizes[0]}
    if how.loras:
        weights = sum(model.blocks.values())
        fixed |= {"weights": weights, "adapters": 4 * sum(sizes)}
    alone = fixed["weights"] if how.loras else sum(fixed.values()) // (len(devices) * machine.nodes)
    together = len(devices) > 1 and alone <= LARGEST_SHARE * min(devices)
    if not together:
        parts, spread = 1, len(devices)  # the layers of one copy lie on all GPUs
    else:
        parts, spread = (1 if how.loras else len(devices) * machine.nodes), 1
    fixed = {part: math.ceil(size / parts / spread) for part, size in fixed.items()}
    config = model.config.get_text_config()
    logits = LOGITS * config.vocab_size * work.longest if how.head else 0
    free = min(devices) - sum(fixed.values())
    text = row // spread + logits
    texts = _halves(min(how.texts, model.batch_size), text, SHARE * free)
    moving = {"activations": texts * row // spread, "cache": 0, "logits": texts * logits}
    if work.rows:  # replies are drawn before they are learned from, in the same memory
        drawn = min(work.rows, texts) * row_bytes(config, model.dtype.itemsize, work.longest) // spread
        moving["cache"] = max(0, drawn - moving["activations"])
    program = {"program": CONTEXT if machine.gpus else TRAINER}
    used = {model.name: (0,) if together else tuple(range(len(devices)))} if machine.gpus else {}
    problem = None if text <= free else _problem(model, work, machine, how, sum(fixed.values()), text)
    copies = len(devices) if together else 1
    return Memory({**program, **fixed, **moving}, used, texts, copies, problem)


def _adapted(model: PlannedModel, key: str, lora: LoRA) -> nn.Module:
    """The model with an adapter that is trained."""
    skeleton = model.skeleton()
    return get_peft_model(skeleton, lora_config(lora, skeleton, f"{key}.lora", model.name))


def _halves(most: int, text: int, room: float) -> int:
    """`most`, or a half, a quarter and so on, texts that there is room for; at least one."""
    texts = most
    while texts > 1 and texts * text > room:
        texts = (texts + 1) // 2
    return texts


def _problem(
    model: PlannedModel, work: Work, machine: Machine, how: Training, fixed: int, text: int
) -> str:
    """Why a job cannot train, with `fixed` bytes besides the `text` bytes of one text, and with which
    setting it could."""
    have = min(machine.free) if machine.gpus else machine.host - TRAINER
    where = "of each GPU" if machine.gpus else "of main memory"
    message = (
        f"{fixed / GIB:.1f} GiB of weights, adapters and optimizer and {text / GIB:.1f} GiB for a text "
        f"of {work.longest} tokens do not fit into {have / GIB:.1f} GiB {where}"
    )
    if fixed < have:
        return f"{message}: {how.length} of about {int(work.longest * (have - fixed) / text)} fits"
    if not how.loras:
        gpus = math.ceil(FULL_BYTES * model.parameters / (LARGEST_SHARE * have))
        return f"{message}: train an adapter (sft.method: lora), or use {gpus} such GPUs together"
    if model.load.quantization == "none":
        return f"{message}: set load.quantization to nf4"
    return f"{message}: use larger GPUs, or more of them"
