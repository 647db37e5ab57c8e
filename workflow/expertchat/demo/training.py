"""Trains a demo model: losses of packed conversations, and the loop over the batches."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import progress_bar, rate
from expertchat.demo.losses import CrossEntropy
from expertchat.demo.optimizer import has_bfloat16, schedule
from expertchat.demo.packing import Batch
from expertchat.errors import UserError

STATE = "state.safetensors"  # of a checkpoint: parameters, optimizers, and counts


def losses(model, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted loss of a batch, and unweighted mean losses in nats: of all targets and of scores."""
    weights = torch.from_numpy(batch.weights)
    rows, columns = torch.nonzero(weights, as_tuple=True)
    half = has_bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = model.model(
            input_ids=torch.from_numpy(batch.ids),
            position_ids=torch.from_numpy(batch.positions),
            attention_mask=attention_bias(batch.visible, torch.bfloat16 if half else torch.float32),
            use_cache=False,
            **router_arguments(model),
        )
        logits = model.lm_head(output.last_hidden_state[rows, columns - 1])
    targets = torch.from_numpy(batch.ids)[rows, columns]
    scale = weights[rows, columns]
    per_target = CrossEntropy.apply(logits, targets)
    loss = (per_target * scale).sum() / scale.sum()
    is_score = torch.from_numpy(batch.is_score)[rows, columns]
    means = {"loss": loss.item()}
    if is_score.any():
        means["score_loss"] = per_target[is_score].mean().item()
    return loss + load_balancing_loss(model, output), means


def attention_bias(visible: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The mask to add to attention scores, (rows, 1, length, length): 0 for visible tokens, else the
    lowest number of `dtype`. `visible` is boolean (rows, length, length)."""
    hidden = torch.finfo(dtype).min
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill_(torch.from_numpy(~visible), hidden)[:, None]


def router_arguments(model) -> dict[str, bool]:
    """Arguments of a forward pass whose output `load_balancing_loss` needs."""
    return {"output_router_logits": True} if model.config.model_type == "mixtral" else {}


def load_balancing_loss(model, output) -> torch.Tensor | float:
    """The weighted load-balancing loss of a mixture of experts, 0 for other models.

    Fedus et al. 2021 (Switch Transformer), equations 4 to 6.
    """
    if model.config.model_type != "mixtral":
        return 0.0
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config
    return 0.01 * load_balancing_loss_func(
        output.router_logits, config.num_local_experts, config.num_experts_per_tok
    )


def train(
    model,
    packed: Iterator[Batch],
    optimizers: list[torch.optim.Optimizer],
    *,
    steps: int,
    warmup: int,
    decay: float,
    label: str,
    saved: Checkpoints | None = None,
) -> dict[str, float]:
    """Trains on the batches. Returns tokens, tokens_per_second and mean losses of the last tenth.

    Resumes from the latest checkpoint in `saved`, with the same result as without an interruption.
    """
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    recent: dict[str, deque] = defaultdict(lambda: deque(maxlen=max(1, steps // 10)))
    done = tokens = 0
    latest = saved.latest() if saved is not None else None
    if latest is not None:
        state = read_state(latest / STATE, model, optimizers)
        done, tokens = state["step"], state["tokens"]
        for name, values in state["recent"].items():
            recent[name].extend(values)
    before, began = tokens, time.perf_counter()
    model.train()
    model.set_attn_implementation("eager")  # a quarter faster than sdpa at this size
    with progress_bar(steps, label, "steps") as progress:
        progress.update(done)
        for step, batch in enumerate(islice(packed, done, steps), done):
            loss, means = losses(model, batch)
            if not bool(torch.isfinite(loss)):
                raise UserError(f"step {step + 1} of {steps}: the loss is NaN or infinite")
            model.zero_grad(set_to_none=False)
            loss.backward()
            factor = schedule(step, steps, warmup, decay)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.step()
            tokens += batch.tokens
            for name, value in means.items():
                recent[name].append(value)
            speed = rate(tokens - before, time.perf_counter() - began, "tokens")
            progress.set_postfix_str(f"{speed}, loss {means['loss']:.2f}", refresh=False)
            progress.update()
            if saved is not None and saved.due:
                state = {"step": step + 1, "tokens": tokens, "recent": {**recent}}
                with saved.writing(numbered(step + 1)) as folder:
                    write_state(folder / STATE, model, optimizers, state)
    model.eval()
    last_losses = {name: float(np.mean(values)) for name, values in recent.items()}
    return {
        "tokens": tokens,
        "tokens_per_second": (tokens - before) / (time.perf_counter() - began),
        **last_losses,
    }


def write_state(path: Path, model, optimizers: list[torch.optim.Optimizer], state: dict) -> None:
    """Writes parameters and optimizers to a safetensors file, with `state` as its metadata."""
    tensors = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    for number, values in optimizer_states(optimizers).items():
        tensors |= {f"{number}|{key}": value.contiguous() for key, value in values.items()}
    lists = {name: list(values) for name, values in state["recent"].items()}
    save_file(tensors, path, metadata={"state": json.dumps(state | {"recent": lists})})


@torch.no_grad()
def read_state(path: Path, model, optimizers: list[torch.optim.Optimizer]) -> dict:
    """Restores what `write_state` wrote, in place; returns the `state`."""
    states = optimizer_states(optimizers)
    parameters = dict(model.named_parameters())
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            if name in parameters:
                parameters[name].copy_(file.get_tensor(name))
            else:
                number, key = name.split("|")
                states[number][key] = file.get_tensor(name)
        return json.loads(file.metadata()["state"])


def optimizer_states(optimizers: list[torch.optim.Optimizer]) -> dict[str, dict[str, torch.Tensor]]:
    """{number of optimizer and parameter: the parameter's own state}."""
    return {
        f"{number}.{index}": optimizer.state[parameter]
        for number, optimizer in enumerate(optimizers)
        for index, parameter in enumerate(optimizer.param_groups[0]["params"])
    }
