"""Checks that a model has the linear layers that a LoRA adapter names in `target_modules`."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.errors import UserError

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


def check_target_modules(
    targets: Sequence[str], key: str, model, source: str, quantized: bool = False
) -> None:
    """Raises UserError if one of `targets` is not the name of a linear layer of `model`.

    Names match as in peft: the last parts of a dotted name are enough. `key` is the settings key that
    holds `targets`, and `source` says in the message which model this is. `quantized` is that of
    `linear_layers`, for a model that is not loaded yet.
    """
    names = linear_layers(model, quantized)
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise UserError(f"{key}: {source} has no linear layer named {target!r}; it has: {known}")
