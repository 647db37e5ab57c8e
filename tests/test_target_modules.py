"""The layers that get a LoRA adapter, in the architectures that people fine-tune."""

import pytest
from expertchat.errors import UserError
from expertchat.models.targets import outline
from expertchat.settings.target_modules import find_target_modules, shortest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

# (layers of attention, all layers but the output layer)
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
EXPECTED = {
    "llama": (QKVO, [*QKVO, *MLP]),
    "qwen2": (QKVO, [*QKVO, *MLP]),
    "qwen3": (QKVO, [*QKVO, *MLP]),
    "mistral": (QKVO, [*QKVO, *MLP]),
    "gemma2": (QKVO, [*QKVO, *MLP]),
    "mixtral": (QKVO, QKVO),  # the experts are fused, and no linear layers
    "phi": (
        ["q_proj", "k_proj", "v_proj", "dense"],
        ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    ),
    "phi3": (["o_proj", "qkv_proj"], ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]),
    "gpt2": (["c_attn", "attn.c_proj"], ["c_attn", "c_proj", "c_fc"]),
    "gptj": (
        ["k_proj", "v_proj", "q_proj", "out_proj"],
        ["k_proj", "v_proj", "q_proj", "out_proj", "fc_in", "fc_out"],
    ),
    "gpt_neox": (
        ["query_key_value", "dense"],
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    ),
    "mpt": (["Wqkv", "out_proj"], ["Wqkv", "out_proj", "up_proj", "down_proj"]),
    "bloom": (
        ["query_key_value", "dense"],
        ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    ),
}


def small(architecture):
    """A model of the architecture on the meta device."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 99}
    config = AutoConfig.for_model(architecture, **sizes, pad_token_id=0)
    return outline(config, AutoModelForCausalLM)


@pytest.mark.parametrize("architecture", EXPECTED)
@pytest.mark.parametrize("which", ["attention", "all"])
def test_the_layers_of_an_architecture(architecture, which):
    expected = EXPECTED[architecture][which == "all"]
    found = find_target_modules(which, "ppo.lora.target_modules", small(architecture), "the model")
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("architecture", EXPECTED)
def test_peft_adapts_just_these_layers(architecture):
    from peft import LoraConfig, get_peft_model

    model = small(architecture)
    names = find_target_modules("attention", "key", model, "the model")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=names, layers_to_transform=[1]))
    adapted = {
        name.rpartition(".lora_A")[0] for name, _ in tuned.named_parameters() if ".lora_A" in name
    }
    assert len(adapted) == len(names)
    assert all(".1." in name and ("attn" in name or "attention" in name) for name in adapted)


def test_a_score_head_gets_no_adapter():
    config = AutoConfig.for_model("llama", num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    config.num_labels = 1
    model = outline(config, AutoModelForSequenceClassification)
    assert find_target_modules("all", "rewards.lora.target_modules", model, "the model") == [*QKVO, *MLP]


def test_a_model_without_attention_says_what_to_do():
    config = AutoConfig.for_model("mamba", num_hidden_layers=1, hidden_size=32, vocab_size=99)
    model = outline(config, AutoModelForCausalLM)
    with pytest.raises(UserError, match=r"sft\.lora\.target_modules: attention; my model has no such"):
        find_target_modules("attention", "sft.lora.target_modules", model, "my model")
    assert "in_proj" in find_target_modules("all", "sft.lora.target_modules", model, "my model")


def test_names_are_as_short_as_tells_them_apart():
    names = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.attn.c_attn", "h.1.attn.c_proj", "c_attn.x"]
    chosen = ["h.0.attn.c_proj", "h.0.attn.c_attn", "h.1.attn.c_proj"]
    assert shortest(chosen, names) == ["attn.c_proj", "c_attn"]
