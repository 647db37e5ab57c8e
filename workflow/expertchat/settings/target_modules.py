"""The linear layers of a model that a LoRA adapter names in `target_modules`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from expertchat.errors import UserError

Targets = Sequence[str] | Literal["attention", "all"]

# What the architectures call their attention layers; their linear layers lie within
ATTENTION = frozenset({"self_attn", "attn", "attention", "self_attention"})

# Names of classes, so that neither torch nor transformers is imported here
LINEAR = {"Linear", "Conv1D"}  # torch.nn.Linear with its subclasses, and the layers of GPT-2
FUSED_EXPERTS = {"MixtralExperts": ("w1", "w2", "w3")}  # linear layers made from them on quantization


def linear_layers(model, quantized: bool = False) -> list[str]:
    """The dotted names of a torch model's linear layers, except the score head of a reward model.

    `quantized` adds the layers that `engine.quantization` makes from fused experts when it loads them.
    """
    names = []
    for name, module in model.named_modules():
        kind = type(module)
        if name != "score" and LINEAR & {base.__name__ for base in kind.__mro__}:
            names.append(name)
        elif quantized and kind.__name__ in FUSED_EXPERTS:
            layers = FUSED_EXPERTS[kind.__name__]
            names += [f"{name}.{i}.{layer}" for i in range(module.num_experts) for layer in layers]
    return names


def find_target_modules(
    targets: Targets, key: str, model, source: str, quantized: bool = False
) -> list[str]:
    """The names of the layers that get an adapter, as peft matches them: `targets`, or what "attention"
    or "all" mean for this model.

    Raises UserError if a name is not that of a linear layer of `model`, or if there is no such layer.
    Names match as in peft: the last parts of a dotted name are enough. `key` is the settings key that
    holds `targets`, and `source` says in the message which model this is. `quantized` is that of
    `linear_layers`, for a model that is not loaded yet.
    """
    names = linear_layers(model, quantized)
    if isinstance(targets, str):
        modules = dict(model.named_modules())
        output = model.get_output_embeddings()
        names = [name for name in names if modules.get(name, model) is not output]
        chosen = names if targets == "all" else [name for name in names if is_attention(name)]
        if not chosen:
            raise UserError(
                f"{key}: {targets}; {source} has no such layers: name its layers, such as {names[0]}"
            )
        return shortest(chosen, names)
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise UserError(f"{key}: {source} has no linear layer named {target!r}; it has: {known}")
    return list(targets)


def is_attention(name: str) -> bool:
    """Whether a layer with this dotted name is a part of an attention layer."""
    return bool(ATTENTION & set(name.split(".")[:-1]))


def shortest(chosen: Sequence[str], names: Sequence[str]) -> list[str]:
    """The last parts of the `chosen` names that no other one of `names` ends with, each once.

    They are the same in all transformer layers, such as "q_proj", or "attn.c_proj" if there is an
    "mlp.c_proj" too.
    """
    others = set(names) - set(chosen)
    found: dict[str, None] = {}
    for name in chosen:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            if not any(f".{other}".endswith(f".{end}") for other in others):
                found[end] = None
                break
    return list(found)
