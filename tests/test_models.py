"""Models and adapters of the user: what does not fit is an error before anything runs."""

import json
import subprocess
import sys

import peft
import pytest
import torch
from conftest import save_random_model
from expertchat.engine import training
from expertchat.engine.interface import Source
from expertchat.engine.loading import load_model, memory_need
from expertchat.engine.opening import open_engine
from expertchat.errors import UserError
from expertchat.models.demo import make_demo_model
from expertchat.models.folders import link_adapter, link_model
from expertchat.models.targets import TargetModules, check_targets
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.settings.models import Load
from expertchat.settings.target_modules import linear_layers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

REWARDS, PPO = "rewards.lora.target_modules", "ppo.lora.target_modules"
TARGETS = {REWARDS: ["q_proj", "self_attn.v_proj"], PPO: ["o_proj"]}


def save_adapter(model, folder, **changes):
    """A random LoRA adapter made on the model in a folder."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model)
    config = peft.LoraConfig(r=2, init_lora_weights=False, **{"target_modules": ["q_proj"]} | changes)
    peft.get_peft_model(base, config).save_pretrained(folder)
    return folder


@pytest.fixture
def artifact(llama_folder, tmp_path):
    (tmp_path / "artifact").mkdir()
    link_model(llama_folder, TargetModules(), tmp_path / "artifact")
    return tmp_path / "artifact"


def test_an_adapter_that_fits_is_linked(llama_folder, artifact, tmp_path):
    link_adapter(save_adapter(llama_folder, tmp_path / "adapter"), artifact)
    assert (artifact / "adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "layers.2.self_attn.q_proj.lora_A.weight is .* none in the model"),
        ({"num_hidden_layers": 1}, "layers.1.self_attn.q_proj.lora_A.weight is none in the adapter"),
        ({"hidden_size": 64}, r"lora_A.weight is \[2, 64\] in the adapter and \[2, 32\] in the model"),
    ],
)
def test_an_adapter_for_other_shapes_is_refused(tokenizer, artifact, tmp_path, changes, message):
    other = save_random_model("llama", tokenizer, tmp_path / "other", **changes)
    with pytest.raises(UserError, match=message):
        link_adapter(save_adapter(other, tmp_path / "adapter"), artifact)
    assert not (artifact / "adapter").exists()


def test_an_adapter_for_another_architecture_is_refused(tokenizer, artifact, tmp_path):
    other = save_random_model("gpt2", tokenizer, tmp_path / "other")
    adapter = save_adapter(other, tmp_path / "adapter", target_modules=["c_attn"])
    with pytest.raises(UserError, match=r"cannot be loaded on the model: .*c_attn.* not found"):
        link_adapter(adapter, artifact)


@pytest.fixture(params=["mamba", "rwkv"])
def recurrent(request, tokenizer, tmp_path):
    sizes = {"attention_hidden_size": 32, "context_length": 64} if request.param == "rwkv" else {}
    return request.param, save_random_model(request.param, tokenizer, tmp_path / "model", **sizes)


def test_a_model_without_attention_is_named_when_planning_and_in_stage_models(
    recurrent, default_config, root, tmp_path
):
    kind, folder = recurrent
    message = f"a {kind} model has no attention, and thus no cache of keys and values"
    default_config["models"]["llama"] = {"source": "path", "path": str(folder)}
    with pytest.raises(UserError, match=f"models.llama.path: {folder}: {message}"):
        read_experiment(default_config, root)
    (tmp_path / "artifact").mkdir()
    with pytest.raises(UserError, match=message):
        link_model(folder, TargetModules(), tmp_path / "artifact")


def test_a_model_without_attention_is_named_by_every_job_that_would_load_it(recurrent):
    """Engines, their placement on GPUs, and the training of rewards and policies."""
    kind, folder = recurrent
    for open_model in (
        lambda: open_engine(Source("m", folder, Load(), 4)),
        lambda: memory_need("m", folder, Load(), 4, 64),
        lambda: training.load_model(folder, Load()),
        lambda: training.load_model(folder, Load(), AutoModelForSequenceClassification, num_labels=1),
    ):
        with pytest.raises(UserError, match=f"a {kind} model has no attention"):
            open_model()


def test_target_modules_of_the_model_are_accepted(llama_folder, tmp_path):
    link_model(llama_folder, TargetModules(TARGETS), tmp_path)
    assert (tmp_path / "model").is_symlink()


@pytest.mark.parametrize("key", TARGETS)
@pytest.mark.parametrize("name", ["query", "proj", "embed_tokens", "score"])
def test_unknown_target_modules_are_named_with_the_known_ones(llama_folder, tmp_path, key, name):
    message = f"{key}: .* no linear layer named '{name}'; it has: down_proj, gate_proj, k_proj, "
    with pytest.raises(UserError, match=message):
        link_model(llama_folder, TargetModules(TARGETS | {key: ["q_proj", name]}), tmp_path)
    assert not (tmp_path / "model").exists()


def test_the_output_layer_is_known_to_the_policy_and_not_to_the_reward_model(llama_folder):
    config = AutoConfig.from_pretrained(llama_folder)
    check_targets(TargetModules({PPO: ["lm_head"]}), config, "llama")
    with pytest.raises(UserError, match="'lm_head'"):
        check_targets(TargetModules({REWARDS: ["lm_head"]}), config, "llama")


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_a_demo_model_is_checked_before_it_is_trained(architecture, tmp_path):
    targets = TargetModules({PPO: ["wq"]})
    with pytest.raises(UserError, match=f"the demo's {architecture} has no linear layer named 'wq'"):
        make_demo_model({"architecture": architecture}, targets, tmp_path / "work", tmp_path)


def test_linear_layers_of_gpt2_are_found():
    check_targets(TargetModules({PPO: ["c_attn", "mlp.c_proj"]}), AutoConfig.for_model("gpt2"), "gpt2")


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_a_loaded_mixtral_has_the_linear_layers_that_are_checked(quantization, tokenizer, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 64}
    folder = save_random_model("mixtral", tokenizer, tmp_path, **sizes)
    loaded = load_model(folder, Load(quantization=quantization))
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert set(linear_layers(base, quantization != "none")) == set(linear_layers(loaded))
    targets = TargetModules({PPO: ["w1"]}, quantized=quantization != "none")
    if quantization == "none":
        with pytest.raises(UserError, match="no linear layer named 'w1'"):
            check_targets(targets, loaded.config, "mixtral")
    else:
        check_targets(targets, loaded.config, "mixtral")


@pytest.mark.slow
def test_the_job_of_a_model_stops_at_target_modules_that_it_lacks(
    default_config, root, llama_folder, tmp_path
):
    default_config["models"]["llama"] = {"source": "path", "path": str(llama_folder)}
    right = make_plan(read_experiment(default_config, root), root)
    wrong_settings = default_config["ppo"] | {"lora": {"target_modules": ["q_proj", "query"]}}
    wrong = make_plan(read_experiment(default_config | {"ppo": wrong_settings}, root), root)
    reference = right.views["models/llama"]
    assert wrong.views["models/llama"] == reference  # names that are only checked change no id
    path = tmp_path / "recipe.json"
    path.write_text(wrong.recipes[reference].to_json(), encoding="utf-8")
    command = [sys.executable, root / "workflow/scripts/models.py", path, "--store", tmp_path / "store"]
    job = subprocess.run(command, capture_output=True, text=True)
    assert job.returncode == 1
    assert job.stderr.splitlines()[-1].startswith("models: ppo.lora.target_modules: ")
    assert "no linear layer named 'query'" in job.stderr
    path.write_text(right.recipes[reference].to_json(), encoding="utf-8")
    subprocess.run(command, check=True, capture_output=True)
    manifest = json.loads((tmp_path / "store" / reference / "manifest.json").read_text())
    assert manifest["recipe"]["runtime"]["target_modules"]["by_key"].keys() == TARGETS.keys()


def test_only_models_that_are_tuned_are_checked(default_config, root):
    plan = make_plan(read_experiment(default_config | {"rounds": 0}, root), root)
    model = plan.recipes[plan.views["models/llama"]]
    assert model.runtime["target_modules"] == {}
