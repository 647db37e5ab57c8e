"""Small real models, made once: a random Llama and Mixtral with a tokenizer of their own."""

import os
from pathlib import Path

import pytest
import yaml

os.environ["OMP_NUM_THREADS"] = "1"  # small models: more threads only wait for each other
ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the real workflow, which takes longest; tests of one file run in one process."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def default_config() -> dict:
    """The default experiment's settings, to be changed at will."""
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def planned(root):
    """A function from settings to their plan."""
    from expertchat.pipeline.experiment import read_experiment
    from expertchat.pipeline.planner import make_plan

    return lambda config: make_plan(read_experiment(config, root), root)


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer with a chat template, trained on a few texts."""
    return small_tokenizer()


def small_tokenizer():
    """See `tokenizer`."""
    from expertchat.demo.tokenizer import train_tokenizer

    texts = ["Topic: bread. I bake rye bread at 220 degrees.", "Rate A for coherence from 0 to 9."]
    return train_tokenizer(texts * 20, 400)


@pytest.fixture(scope="session", params=["llama", "mixtral"])
def model_folder(request, tokenizer, tmp_path_factory) -> Path:
    """A random model of either architecture, saved as any other model is."""
    return save_random_model(request.param, tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llama_folder(tokenizer, tmp_path_factory) -> Path:
    """A random Llama."""
    return save_random_model("llama", tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def adapters(llama_folder, tmp_path_factory) -> list[Path]:
    """Folders of two random adapters of the random Llama, of different layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for seed, modules in enumerate((["q_proj"], ["q_proj", "v_proj"])):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(llama_folder)
        config = LoraConfig(r=2, target_modules=modules, init_lora_weights=False)
        folders.append(tmp_path_factory.mktemp(f"adapter-{seed}"))
        get_peft_model(base, config).save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A small experiment, run to its end."""
    from small_workflow import small_config, snakemake, write_config

    folder = tmp_path_factory.mktemp("workflow")
    write_config(folder, small_config())
    snakemake(folder, "all")
    return folder


def save_random_model(architecture: str, tokenizer, folder: Path, **changes) -> Path:
    """Writes a random model with the tokenizer; its outputs are peaked enough to tell tokens apart."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "mixtral":
        sizes |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def quick_retries(monkeypatch):
    """Shorter waits for servers."""
    from expertchat.engine.server import client, engine

    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="session")
def word_server():
    """A running server without a model, whose replies are "word SEED"."""
    from running_server import RunningServer

    running = RunningServer()
    yield running
    running.end()


@pytest.fixture(scope="session")
def llama_server(llama_folder):
    """A running server of the random Llama."""
    from running_server import RunningServer

    running = RunningServer("--model", str(llama_folder))
    yield running
    running.end()


@pytest.fixture(scope="session")
def local_llama(llama_folder):
    """An engine in this process on the model of `llama_server`."""
    from expertchat.engine.local import LocalEngine
    from expertchat.settings.models import Load

    return LocalEngine(llama_folder, Load(), batch_size=32)


@pytest.fixture
def engine_on(monkeypatch):
    """Opens an engine on a running server, with a user's settings and environment."""
    from expertchat.settings.models import Server
    from running_server import KEY, NOWHERE, opened

    def open_on(running, folder=NOWHERE, key=KEY, **changes):
        monkeypatch.setenv("TEST_URL", running.url)
        monkeypatch.setenv("TEST_KEY", key)
        running.control()
        settings = {"url_env": "TEST_URL", "key_env": "TEST_KEY", "retries": 3} | changes
        return opened(Server(**settings), folder)

    return open_on


def count_tokens(engine, monkeypatch):
    """The number of tokens (rows times length) of each forward pass of a local engine, as a list."""
    base = engine.model.get_base_model() if hasattr(engine.model, "get_base_model") else engine.model
    counts, trunk = [], base.model
    forward = trunk.forward

    def counting(*arguments, **kwargs):
        counts.append(kwargs["input_ids"].numel())
        return forward(*arguments, **kwargs)

    monkeypatch.setattr(trunk, "forward", counting)
    return counts


@pytest.fixture(scope="session")
def instructions(tmp_path_factory):
    """An artifact of stage instructions with few conversations."""
    from test_sft import write_instructions

    return write_instructions(tmp_path_factory.mktemp("instructions"))


@pytest.fixture(scope="module")
def reward_folder(model_folder, tmp_path_factory):
    """(folder, model) of a random reward model on the random model."""
    from small_policy import make_reward_model

    return make_reward_model(model_folder, tmp_path_factory.mktemp("reward"))


@pytest.fixture
def backbone(model_folder, reward_folder):
    """The random model with what PPO needs."""
    from small_policy import make_backbone

    return make_backbone(model_folder, reward_folder)


@pytest.fixture
def trainer(backbone, model_folder):
    """A trainer of the backbone, before its first step."""
    from small_policy import make_trainer

    return make_trainer(backbone, model_folder)
