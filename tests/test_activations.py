"""The memory of a training pass is planned before it, and decides how many texts are in one pass."""

import pytest
import torch
from expertchat.engine import activations
from expertchat.engine.activations import planned_texts, row_activations
from expertchat.engine.backbone import forward_parameters
from expertchat.engine.training import without_dropout
from expertchat.errors import UserError
from peft import LoraConfig, get_peft_model
from test_sft import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 48}
LLAMA = {**SIZES, "num_key_value_heads": 2}
TOKENS = 40


def make(architecture, sizes, adapter=False, device="cpu"):
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(architecture, vocab_size=300, **sizes)
        )
    without_dropout(model)
    if adapter:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    return model


def really_kept(model, rows) -> int:
    """Bytes of the tensors that PyTorch keeps for the gradient of a pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(base, base.base_model_prefix)
    ids = torch.zeros(rows, TOKENS, dtype=torch.long)
    mask = torch.full((TOKENS, TOKENS), torch.finfo(torch.float32).min).triu(1)
    arguments = {"input_ids": ids, "attention_mask": mask.expand(rows, 1, -1, -1), "use_cache": False}
    if "position_ids" in forward_parameters(backbone):
        arguments["position_ids"] = torch.arange(TOKENS).expand(rows, -1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(**arguments)
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)


ADAPTED = ("llama", "qwen2", "gptj", "gemma2")
ARCHITECTURES = [*(name for name in FAMILIES if name != "mixtral"), "llama"]


@pytest.mark.parametrize(
    ("architecture", "adapter"),
    [*((name, False) for name in ARCHITECTURES), *((name, True) for name in ADAPTED)],
)
def test_what_is_planned_is_what_pytorch_keeps(architecture, adapter):
    sizes = LLAMA if architecture == "llama" else FAMILIES[architecture]
    planned = activations._kept_bytes(make(architecture, sizes, adapter, "meta"), TOKENS)
    model = make(architecture, sizes, adapter)
    assert planned == pytest.approx(really_kept(model, 3) / 3, rel=0.1)


def test_experts_are_planned_in_another_type_and_scaled():
    """Of the experts' layers, an upper bound: what is in float32 anyway is scaled as well."""
    sizes = {**LLAMA, "num_local_experts": 4}
    planned = activations._kept_bytes(make("mixtral", sizes, device="meta"), TOKENS)
    kept = really_kept(make("mixtral", sizes), 3) / 3
    assert kept * 0.9 < planned < 1.5 * kept


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer():
    few, many = (
        make("llama", {**LLAMA, "num_hidden_layers": layers}, device="meta") for layers in (2, 20)
    )
    inputs = TOKENS * 32 * 4
    added = row_activations(many, TOKENS, again=True) - row_activations(few, TOKENS, again=True)
    assert added == pytest.approx(18 * inputs, rel=0.15)  # a layer's share of what all have in common
    assert row_activations(many, TOKENS, again=True) < row_activations(many, TOKENS, again=False) / 5


@pytest.mark.parametrize(
    ("room", "group", "texts"),
    [(1.0, 1, 10), (0.35, 1, 3), (0.101, 1, 1), (0.44, 4, 5)],  # of what ten whole texts take
)
def test_as_many_texts_as_fit(room, group, texts, monkeypatch, capsys):
    model, skeleton = (make("llama", LLAMA, device=device) for device in ("cpu", "meta"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    row = row_activations(skeleton, TOKENS, again=False)
    monkeypatch.setattr(activations, "SHARE", 1.0)
    monkeypatch.setattr(activations, "free_bytes", lambda _: round(10 * row * room) + 1)
    own, shared = (TOKENS, 0) if group == 1 else (TOKENS // 4, 3 * TOKENS // 4)
    found = planned_texts(model, skeleton, 10, own, shared=shared, group=group, again=False)
    assert found == texts
    said = capsys.readouterr().err
    assert (f"{texts} texts in one pass instead of 10" in said) == (texts < 10)


def test_the_optimizer_of_what_is_trained_takes_memory_too(monkeypatch):
    model, skeleton = (make("llama", LLAMA, device=device) for device in ("cpu", "meta"))
    row = row_activations(skeleton, TOKENS, again=False)
    monkeypatch.setattr(activations, "SHARE", 1.0)
    monkeypatch.setattr(activations, "free_bytes", lambda _: 12 * model.num_parameters() + 2 * row)
    assert planned_texts(model, skeleton, 10, TOKENS, again=False) == 2


def test_a_text_that_does_not_fit_stops_the_job_before_it_trains(monkeypatch):
    model, skeleton = (make("llama", LLAMA, device=device) for device in ("cpu", "meta"))
    monkeypatch.setattr(activations, "free_bytes", lambda _: 2**20)
    with pytest.raises(UserError, match=r"training on a text of 40000 tokens takes 0\.[1-9] GiB"):
        planned_texts(model, skeleton, 10, 40_000, again=True)
