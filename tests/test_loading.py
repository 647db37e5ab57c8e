"""Loading: safetensors only, at the configured precision, with correct gradients and planned memory."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import save_random_model
from expertchat.engine.loading import (
    check_attention,
    has_kernels,
    load_model,
    make_skeleton,
    pick_dtype,
)
from expertchat.engine.memory import (
    block_bytes,
    check_footprint,
    footprint,
    int8_bytes,
    nf4_bytes,
    tensor_bytes,
    token_bytes,
)
from expertchat.errors import UserError
from expertchat.settings.models import Load
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, MixtralConfig

WIDE = {"hidden_size": 64, "intermediate_size": 128}
IDS = torch.arange(4, 36).unsqueeze(0)


@pytest.fixture(scope="module")
def mixtral(tokenizer, tmp_path_factory):
    """A random Mixtral, saved like the published ones: a separate matrix for each expert."""
    return save_random_model("mixtral", tokenizer, tmp_path_factory.mktemp("mixtral"), **WIDE)


@pytest.fixture(scope="module")
def fused_mixtral(mixtral, tmp_path_factory):
    """The same with fused experts on disk, in several files."""
    folder = tmp_path_factory.mktemp("fused")
    model = AutoModelForCausalLM.from_pretrained(mixtral)
    model.save_pretrained(folder, save_original_format=False, max_shard_size="200KB")
    return folder


@pytest.fixture(scope="module")
def llama(tokenizer, tmp_path_factory):
    """A random Llama that is wide enough to be quantized."""
    return save_random_model("llama", tokenizer, tmp_path_factory.mktemp("llama"), **WIDE)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(IDS).logits.float()


@torch.no_grad()
def dequantized(folder, load: Load):
    """The model in transformers' own form, with weights quantized by `load` and dequantized."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    plain, small = load_model(folder, Load()), load_model(folder, load)
    for name, module in small.named_modules():
        if not hasattr(module, "weight") or "experts" in name:
            continue
        state = getattr(module, "state", None)
        plain.get_submodule(name).weight.copy_(dequantize_bnb_weight(module.weight, state))
    for layer, other in zip(plain.model.layers, small.model.layers, strict=True):
        fused = getattr(layer.mlp, "experts", None)
        if fused is None:
            continue
        for i, expert in enumerate(other.mlp.experts):
            w1, w2, w3 = (
                dequantize_bnb_weight(m.weight, getattr(m, "state", None))
                for m in (expert.w1, expert.w2, expert.w3)
            )
            fused.gate_up_proj[i].copy_(torch.cat([w1, w3]))
            fused.down_proj[i].copy_(w2)
    return plain


def lora_gradient(model, forward_first: bool = False) -> torch.Tensor:
    """The gradient of a LoRA adapter on the model's attention, with or without a forward pass before."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(model, lora)
    if forward_first:
        with torch.no_grad():
            tuned(IDS)
    tuned(IDS, labels=IDS).loss.backward()
    return torch.cat([p.grad.flatten() for p in tuned.parameters() if p.grad is not None])


def test_no_pickled_weights_are_read(llama_folder, tmp_path):
    shutil.copytree(llama_folder, tmp_path / "m")
    torch.save({"x": torch.zeros(1)}, tmp_path / "m" / "pytorch_model.bin")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors only"):
        load_model(tmp_path / "m", Load())


def test_a_missing_file_of_several_is_named(fused_mixtral, tmp_path):
    shutil.copytree(fused_mixtral, tmp_path / "m")
    last = sorted((tmp_path / "m").glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(UserError, match=last.name):
        load_model(tmp_path / "m", Load())


def test_files_that_lack_weights_are_refused(llama_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(llama_folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack weights: model\.layers\.1\.mlp\.up_proj"):
        load_model(tmp_path / "m", Load())


def test_a_loaded_model_knows_its_folder_and_its_generation_settings(llama_folder, tmp_path):
    shutil.copytree(llama_folder, tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    model = load_model(tmp_path / "m", Load())
    assert model.name_or_path == model.config.name_or_path == str(tmp_path / "m")
    assert model.generation_config.eos_token_id == [3, 5]


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_weights_are_those_of_the_file(architecture, request):
    folder = request.getfixturevalue(architecture)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(load_model(folder, Load())), logits(expected.eval()))


# Quantized models


@pytest.mark.parametrize("quantization, tolerance", [("nf4", 1e-4), ("int8", 0.15)])
@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_a_quantized_model_is_one_with_rounded_weights(architecture, quantization, tolerance, request):
    folder, load = request.getfixturevalue(architecture), Load(quantization=quantization)
    expected = logits(dequantized(folder, load))
    found = logits(load_model(folder, load))
    assert (found - expected).square().mean().sqrt() < tolerance * expected.std()
    assert not torch.equal(expected, logits(load_model(folder, Load())))


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_fused_and_separate_experts_on_disk_give_one_model(mixtral, fused_mixtral, quantization):
    load = Load(quantization=quantization)
    assert torch.equal(logits(load_model(mixtral, load)), logits(load_model(fused_mixtral, load)))


def test_every_matrix_but_the_heads_is_quantized(mixtral):
    model = load_model(
        mixtral, Load(quantization="nf4"), AutoModelForSequenceClassification, num_labels=1
    )
    sizes = {n: p.element_size() for n, p in model.named_parameters()}
    whole = {n.removeprefix("model.") for n, size in sizes.items() if size == 4 and "norm" not in n}
    assert whole == {
        "embed_tokens.weight",
        "score.weight",
        *(f"layers.{i}.mlp.gate.weight" for i in (0, 1)),
    }


@pytest.mark.parametrize("quantization, cosine", [("nf4", 0.9999), ("int8", 0.95)])
@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_gradients_are_those_through_rounded_weights(architecture, quantization, cosine, request):
    """Also after a forward pass without gradients, in which some CPUs repack 4-bit weights."""
    folder, load = request.getfixturevalue(architecture), Load(quantization=quantization)
    expected = lora_gradient(dequantized(folder, load))
    for first in (False, True):
        found = lora_gradient(load_model(folder, load), first)
        assert torch.cosine_similarity(found, expected, dim=0) > cosine
        assert found.norm() == pytest.approx(float(expected.norm()), rel=0.15)


def test_an_adapter_on_a_quantized_mixtral_is_saved_and_read_again(mixtral, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    load = Load(quantization="nf4")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(load_model(mixtral, load), lora).eval()
    tuned.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load_model(mixtral, load), tmp_path).eval()
    assert torch.equal(logits(again), logits(tuned))
    assert not torch.equal(logits(again), logits(load_model(mixtral, load)))


def test_experts_of_other_models_are_refused_before_their_weights_are_read(tokenizer, tmp_path):
    folder = save_random_model("qwen3_moe", tokenizer, tmp_path, num_experts=4, moe_intermediate_size=16)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"fused experts .*load\.quantization to none"):
        load_model(folder, Load(quantization="nf4"))


# Memory


def test_bytes_of_a_quantized_matrix_by_hand():
    # 64 x 64 = 4096 weights: 2048 bytes, 64 scales, one scale of scales, their mean, 16 and 256 levels
    assert nf4_bytes(64, 64) == 2048 + 64 + 4 + 4 + 64 + 1024
    assert int8_bytes(64, 64) == 4096 + 64 * 4


def test_bytes_of_a_cached_token_by_hand(llama_folder):
    # keys and values of 2 layers, 2 heads of 8 dimensions, 2 bytes each
    assert token_bytes(make_skeleton(llama_folder, Load()).config, 2) == 2 * 2 * 2 * 8 * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_planned_bytes_are_those_in_memory(architecture, quantization, dtype, request):
    folder, load = request.getfixturevalue(architecture), Load(quantization=quantization, dtype=dtype)
    planned = sum(tensor_bytes(make_skeleton(folder, load), load).values())
    assert footprint(load_model(folder, load)) == pytest.approx(planned, rel=0.02)


def test_mixtral_8x7b_is_planned_at_24_gib_in_4_bits(tmp_path):
    MixtralConfig(architectures=["MixtralForCausalLM"]).save_pretrained(tmp_path)
    whole, small = Load(dtype="bfloat16"), Load(dtype="bfloat16", quantization="nf4")
    skeleton = make_skeleton(tmp_path, small)
    # 46.7e9 weights, of which all but 0.26e9 take 4.127 bits
    assert sum(tensor_bytes(skeleton, whole).values()) == pytest.approx(93.4e9, rel=0.01)
    assert sum(tensor_bytes(skeleton, small).values()) == pytest.approx(24.5e9, rel=0.01)
    blocks = block_bytes(skeleton, small)
    layers = [f"model.layers.{i}" for i in range(32)]
    assert list(blocks) == ["model.rotary_emb", "model.embed_tokens", *layers, "model.norm", "lm_head"]
    assert sum(blocks.values()) == sum(tensor_bytes(skeleton, small).values())


def test_a_model_that_was_not_quantized_as_planned_is_refused(mixtral):
    load = Load(quantization="nf4")
    planned = sum(tensor_bytes(make_skeleton(mixtral, load), load).values())
    with pytest.raises(
        UserError, match=r"GiB in memory, but 0\.000 GiB were planned; the largest is .*experts"
    ):
        check_footprint(load_model(mixtral, Load()), planned, "mixtral")


def test_tied_weights_are_planned_and_counted_once(tokenizer, tmp_path):
    folder = save_random_model("llama", tokenizer, tmp_path, tie_word_embeddings=True, **WIDE)
    planned = tensor_bytes(make_skeleton(folder, Load()), Load())
    assert "lm_head.weight" not in planned
    assert footprint(load_model(folder, Load())) == sum(planned.values())


PEAK = """
import sys
from pathlib import Path
import bitsandbytes, torch
from expertchat.engine.loading import load_model
from expertchat.engine.memory import footprint
from expertchat.settings.models import Load

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

load = Load(quantization="nf4", dtype="bfloat16")
warm, folder = map(Path, sys.argv[1:])
load_model(warm, load)  # so that the memory of a first load is not counted
before = resident("VmRSS")
model = load_model(folder, load)
print(footprint(model), resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_host_memory_stays_near_the_quantized_size(mixtral, tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 400}
    config = MixtralConfig(num_local_experts=16, num_attention_heads=8, num_key_value_heads=4, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="45MB")
    files = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    command = [sys.executable, "-c", PEAK, str(mixtral), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    quantized, peak = map(int, found.split())
    assert len(files) > 2 and quantized < sum(files) / 3
    assert peak < 1.3 * quantized + max(files)


# What the machine can do


@pytest.mark.parametrize("has_bfloat16, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_gets_float16(monkeypatch, has_bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    assert pick_dtype(Load(), torch.device("cuda")) == expected
    assert pick_dtype(Load(), torch.device("cpu")) == torch.float32
    assert pick_dtype(Load(dtype="bfloat16"), torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), False), ((7, 5), True), ((8, 6), True), ((9, 0), True), ((10, 3), True), ((12, 0), False)],
)
def test_kernels_run_on_later_gpus_of_their_generation(capability, expected):
    assert has_kernels(capability, ["sm_75", "sm_80", "sm_90a", "sm_100"]) == expected
    assert has_kernels(capability, ["compute_75"]) == (capability >= (7, 5))


def test_a_gpu_without_kernels_is_named(llama_folder, monkeypatch):
    known = {"get_arch_list": ["sm_75", "sm_80"], "device_count": 1, "get_device_name": "Tesla V100"}
    for name, value in (known | {"get_device_capability": (7, 0)}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *gpu, value=value: value)
    with pytest.raises(UserError, match=r"Tesla V100 has compute capability 7\.0, and this PyTorch"):
        load_model(llama_folder, Load())


def test_flash_attention_is_refused_before_weights_are_read(llama_folder, tmp_path, monkeypatch):
    shutil.copytree(llama_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    load, gpu = Load(attention="flash_attention_2"), torch.device("cuda")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="needs a GPU"):
            load_model(tmp_path / "m", load)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    with pytest.raises(UserError, match="compute capability"):
        check_attention(load, torch.float16, gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(UserError, match="flash-attn"):
        check_attention(load, torch.float16, gpu)
