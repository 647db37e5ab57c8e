"""Damaged weights and numbers that are not finite end a job, instead of becoming a result."""

import shutil

import numpy as np
import pytest
import torch
from expertchat.engine.interface import Question, Request
from expertchat.engine.loading import load_model
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from safetensors.torch import load_file, save_file

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


def altered(folder, copy, change, file=WEIGHTS):
    """A copy of a folder with changed tensors."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / file)
    change(tensors)
    save_file(tensors, copy / file, metadata={"format": "pt"})
    return copy


def first(tensors, ending):
    return next(name for name in sorted(tensors) if name.endswith(ending))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_a_weight_that_is_no_number_is_refused(model_folder, tmp_path, value):
    def change(tensors):
        tensors[first(tensors, "q_proj.weight")][1, 2] = value

    folder = altered(model_folder, tmp_path / "model", change)
    with pytest.raises(UserError, match=r"q_proj\.weight has values that are NaN or infinite"):
        load_model(folder, Load())


def test_a_model_with_weights_that_it_does_not_use_is_refused(llama_folder, tmp_path):
    def change(tensors):
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(4, 4)

    folder = altered(llama_folder, tmp_path / "model", change)
    with pytest.raises(UserError, match=r"does not use: model\.layers\.9\.mlp\.up_proj\.weight and 0"):
        load_model(folder, Load())


def test_an_engine_does_not_draw_or_score_with_numbers_that_are_not_finite(llama_folder):
    engine = LocalEngine(llama_folder, Load(dtype="float32"), 4)
    with torch.no_grad():
        engine.model.get_input_embeddings().weight.fill_(float("nan"))
    message = [{"role": "user", "content": "Bread"}]
    for decoding in (Decoding(), Decoding(strategy="greedy"), Decoding(top_p=0.9)):
        with pytest.raises(UserError, match="logits that are NaN or infinite: its weights"):
            engine.generate([Request(message, 0)], decoding)
    with pytest.raises(UserError, match="probabilities that are NaN"):
        engine.answer_logprobs([[Question(message, ["1", "2"])]])


HARM = {
    "missing": (lambda t: t.pop(first(t, "lora_A.weight")), "lora_A.weight is in the model only"),
    "left over": (
        lambda t: t.update({"base_model.model.model.layers.9.x.lora_A.weight": torch.zeros(2, 2)}),
        "layers.9.x.lora_A.weight is in the adapter only",
    ),
    "not a number": (
        lambda t: t[first(t, "lora_B.weight")].fill_(float("nan")),
        "lora_B.weight has values that are NaN",
    ),
    "another shape": (
        lambda t: t.update({first(t, "lora_A.weight"): torch.zeros(2, 7)}),
        "this adapter does not fit the model: ",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_adapter_is_loaded_completely_or_not_at_all(llama_folder, adapters, tmp_path, harm):
    change, message = HARM[harm]
    folder = altered(adapters[1], tmp_path / "adapter", change, ADAPTER)
    engine = LocalEngine(llama_folder, Load(), 4)
    engine.use(adapters[0])
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        engine.use(folder)
    (folder / ADAPTER).write_bytes(b"\0" * 10)
    with pytest.raises(UserError, match="this adapter does not fit the model"):
        LocalEngine(llama_folder, Load(), 4).use(folder)


def test_finite_numbers_pass():
    from expertchat.engine.finite import require_finite_logits, require_numbers

    require_finite_logits(torch.tensor([[0.0, -torch.inf]]), "m")  # a token may be impossible
    require_numbers(np.array([-np.inf, -1.0]), "m")
    with pytest.raises(UserError):
        require_finite_logits(torch.tensor([[0.0, 1.0], [-torch.inf, -torch.inf]]), "m")
