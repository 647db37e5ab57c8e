"""Rehearsals (`shrink: true`): what becomes of the settings, and that presets run to the end."""

import json
import subprocess
import sys
from typing import get_args

import pytest
import yaml
from expertchat import chat
from expertchat.chat import Turn
from expertchat.engine.interface import Request
from expertchat.engine.loading import load_tokenizer
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.instructions.records import read_instructions
from expertchat.models.shrunk import PARTICULARS, make_shrunk_model
from expertchat.models.targets import TargetModules
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.planning.jobs import plan_jobs
from expertchat.planning.machine import read_machine
from expertchat.preferences.records import read_preferences
from expertchat.questions.artifact import read_split
from expertchat.questions.sources import describe, write_splits
from expertchat.records import read_json
from expertchat.rehearsal.families import family_of_name
from expertchat.rehearsal.made_up import INSTRUCTIONS, PREFERENCES, RECORDS, questions, write_made_up
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load, ShrunkModel, Tiny
from planning import LEARNING, fault_of
from small_workflow import ROOT, snakemake, write_config

PRESETS = sorted(path.stem for path in (ROOT / "config/presets").glob("*.yaml"))
HUB = {"source": "hub", "repository": "a/unheard-of", "revision": "main"}


def rehearsal(preset, *overrides):
    """The experiment that a preset becomes with `shrink`."""
    config = read_config([ROOT / f"config/presets/{preset}.yaml"], ["shrink=true", *overrides])
    return read_experiment(config, ROOT)


def shrunk_of(config):
    return read_experiment({**config, "shrink": True}, ROOT)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_planned_and_needs_no_network(preset):
    experiment = rehearsal(preset)
    assert {model.source for model in experiment.models.values()} == {"shrunk"}
    plan = make_plan(experiment, ROOT)
    sources = json.dumps([recipe.settings for recipe in plan.recipes.values()])
    assert '"source": "hub"' not in sources and '"source": "package"' not in sources
    original = yaml.safe_load((ROOT / f"config/presets/{preset}.yaml").read_text(encoding="utf-8"))
    assert experiment.name == plan.experiment.name == original["name"] + "-shrunk"
    stand_in = {"source": "shrunk", "architecture": "llama", "template": "x"}
    real = original | {"models": {name: stand_in for name in original["models"]}}
    stages = {recipe.stage for recipe in make_plan(read_experiment(real, ROOT), ROOT).recipes.values()}
    assert {recipe.stage for recipe in plan.recipes.values()} == stages, "it plays every stage"


def test_models_of_the_founding_case_keep_architecture_template_and_quantization():
    models = rehearsal("expertchat").models
    assert [model.architecture for model in models.values()] == ["mixtral", "llama"]
    assert {(m.load.quantization, m.load.dtype) for m in models.values()} == {("nf4", "float16")}
    assert "Only user and assistant roles" in models["mixtral"].template
    assert models["llama"].end_token == "<|eot_id|>"


def test_what_is_expensive_gets_small_and_what_is_chosen_stays():
    small, real = rehearsal("expertchat"), read_config([ROOT / "config/presets/expertchat.yaml"])
    assert small.topics.subjects == ["astronomy", "bread baking", "bridge engineering", "viticulture"]
    assert (small.topics.held_out_subjects, small.topics.per_subject) == (1, 2)
    assert (small.dialogues.turns, small.dialogues.candidate_turns) == (4, [2, 3])
    assert small.dialogues.decoding.max_new_tokens == 16
    assert small.dialogues.decoding.temperature == real["dialogues"]["decoding"]["temperature"]
    assert (small.ratings.orders, small.ratings.self_rating, small.ratings.perplexity) == (
        "both",
        True,
        True,
    )
    assert (small.ppo.steps, small.ppo.batch_size, small.ppo.minibatch_size) == (2, 4, 2)
    assert (small.ppo.learning_rate, small.rewards.max_length) == (2e-5, 2048)
    assert small.ppo.gradient_checkpointing, "as on a GPU"
    assert small.mmlu.questions.source == "made-up" and small.mmlu.limit == 6


def test_smaller_amounts_than_those_of_a_rehearsal_stay(default_config):
    default_config["ppo"] = {"steps": 1, "algorithm": "rloo", "replies_per_context": 4, "batch_size": 8}
    default_config["ppo"]["minibatch_size"] = 8
    default_config["dialogues"]["candidates"] = 3
    small = shrunk_of(default_config)
    assert (small.ppo.steps, small.ppo.replies_per_context, small.dialogues.candidates) == (1, 2, 3)


def test_the_demo_keeps_its_own_models_and_trains_them_briefly(default_config):
    small = shrunk_of(default_config)
    assert {(m.source, m.steps) for m in small.models.values()} == {("demo", 40)}
    assert "oracle" in {recipe.stage for recipe in make_plan(small, ROOT).recipes.values()}


def test_without_shrink_nothing_changes(default_config):
    assert read_experiment(default_config, ROOT) == read_experiment(
        {**default_config, "shrink": False}, ROOT
    )
    plan = make_plan(read_experiment(default_config, ROOT), ROOT)
    assert all("fixed_scale" not in recipe.settings for recipe in plan.recipes.values())


def test_a_rehearsals_reward_models_lead_to_tuning():
    for preset, count in (("expertchat", 2), ("minchatgpt", 1)):  # the judge trains no policy
        recipes = make_plan(rehearsal(preset), ROOT).recipes.values()
        fixed = [recipe for recipe in recipes if recipe.settings.get("fixed_scale") == 1.0]
        assert [recipe.stage for recipe in fixed] == ["rewards"] * count


def test_models_with_the_same_weights_are_one_model_and_others_differ():
    plan = make_plan(rehearsal("laptop"), ROOT)
    assert plan.views["models/ada"] == plan.views["models/ben"]
    views = make_plan(rehearsal("mmlu-mixture"), ROOT).views
    assert len({views[f"models/{name}"] for name in ("medalpaca", "codealpaca", "llama")}) == 3


@pytest.mark.slow
def test_what_a_rehearsal_needs_can_be_planned(tmp_path):
    recipes = make_plan(rehearsal("expertchat"), ROOT).recipes
    needs = list(plan_jobs(recipes, recipes.values(), read_machine("none"), tmp_path))
    assert needs and not [need.reason or need.problem for need in needs if need.reason or need.problem]
    assert sum(need.seconds for need in needs) < 3600


NAMES = {
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mixtral", True),
    "mistralai/Mixtral-8x7B-v0.1": ("mixtral", False),
    "mistralai/Mistral-7B-Instruct-v0.2": ("mistral", True),
    "mistralai/Mistral-7B-v0.1": ("mistral", False),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("llama", True),
    "meta-llama/Llama-3.1-8B": ("llama", False),
    "meta-llama/Llama-2-7b-chat-hf": ("llama", True),
    "meta-llama/Llama-2-7b-hf": ("llama", False),
    "huggyllama/llama-7b": ("llama", False),
    "medalpaca/medalpaca-7b": ("llama", False),
    "EleutherAI/pythia-12b": ("gpt_neox", False),
    "EleutherAI/gpt-j-6b": ("gptj", False),
    "mosaicml/mpt-7b": ("mpt", False),
    "mosaicml/mpt-7b-chat": ("mpt", True),
    "openai-community/gpt2-medium": ("gpt2", False),
    "microsoft/phi-2": ("phi", False),
    "microsoft/Phi-3-mini-4k-instruct": ("phi3", True),
    "google/gemma-2b": ("gemma", False),
    "google/gemma-7b-it": ("gemma", True),
    "google/gemma-2-9b-it": ("gemma2", True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": ("llama", True),
    "Qwen/Qwen2.5-0.5B-Instruct": ("qwen2", True),
    "Qwen/Qwen3-0.6B": ("qwen3", True),
}


@pytest.mark.parametrize("name", NAMES)
def test_families_are_known_by_name(name):
    family = family_of_name(name)
    assert (family.architecture, family.template is not None) == NAMES[name]


def test_an_unknown_model_is_one_sentence_that_names_the_key_to_set(default_config):
    default_config |= {"world": None, "shrink": True, "mmlu": None}
    default_config["models"] = {"llama": HUB, "mixtral": {**HUB, "shrink_to": "gptj"}}
    fault = fault_of(default_config, ROOT)
    assert "models.llama.repository: a/unheard-of; shrink does not know" in fault
    assert "set models.llama.shrink_to" in fault and len(fault.splitlines()) == 2
    default_config["models"]["llama"] = {**HUB, "shrink_to": "mistral"}
    models = read_experiment(default_config, ROOT).models
    assert [model.architecture for model in models.values()] == ["mistral", "gptj"]
    assert all(model.template for model in models.values()), "models that talk have a chat template"


@pytest.fixture
def folder(tmp_path):
    """A model's folder with its configuration, without weights."""
    config = {"model_type": "gpt_neox"}
    tokenizer = {
        "chat_template": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|stop|>{% endfor %}",
        "bos_token": {"content": "<|go|>"},
        "eos_token": "<|stop|>",
        "add_bos_token": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return tmp_path


def test_a_folder_says_what_its_model_is(folder, default_config):
    default_config["world"] = default_config["mmlu"] = None
    default_config["models"] = {"llama": {"source": "path", "path": str(folder)}, "mixtral": HUB}
    default_config["models"]["mixtral"] |= {"shrink_to": "llama"}
    model = shrunk_of(default_config).models["llama"]
    assert (model.architecture, model.begin_token, model.end_token) == ("gpt_neox", "<|go|>", "<|stop|>")
    assert model.template.startswith("{% for m in messages %}")
    (folder / "config.json").write_text('{"model_type": "mamba"}', encoding="utf-8")
    fault = fault_of({**default_config, "shrink": True}, ROOT)
    assert "shrink makes no tiny model of architecture 'mamba': set models.llama.shrink_to" in fault


def test_a_server_becomes_a_model_that_is_not_tuned():
    settings = {**LEARNING, "judgements": {"judges": ["gpt", "reward_model"]}, "shrink": True}
    server = {"url_env": "NOWHERE_URL", "model": "gpt"}
    settings["models"] = {
        "smol": {**HUB, "shrink_to": "llama"},
        "gpt": {"source": "server", "load": {"server": server}},
    }
    experiment = read_experiment(settings, ROOT)
    assert experiment.models["gpt"].source == "shrunk" and experiment.models["gpt"].load.server is None
    assert experiment.tuned_by_preferences == ["smol"]


def test_few_topics_of_a_file_have_both_splits(tmp_path, default_config):
    rows = [
        {
            "topic": f"Proofing number {i}",
            "subject": f"s{i % 20}",
            "split": "held_out" if i % 20 == 19 else "train",
        }
        for i in range(80)
    ]
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    default_config["world"] = default_config["mmlu"] = None
    default_config["models"] = {name: HUB | {"shrink_to": "llama"} for name in ("llama", "mixtral")}
    for seed in range(5):
        default_config |= {"seed": seed, "topics": {"file": {"path": str(path), "mode": "replace"}}}
        small = shrunk_of(default_config)  # planning checks that topics of both splits are left
        make_plan(small, ROOT)
        assert 4 <= small.topics.file.max_subjects <= 20


@pytest.mark.parametrize("format", [*INSTRUCTIONS])
def test_made_up_instructions_are_read_as_the_real_ones(format, tmp_path):
    write_made_up(INSTRUCTIONS[format], 0, tmp_path / "records.jsonl")
    found = read_instructions(tmp_path / "records.jsonl", format)
    assert found.faults == [] and found.records == RECORDS and len(found.conversations) >= RECORDS - 2


@pytest.mark.parametrize("format", [*PREFERENCES])
def test_made_up_preferences_are_read_as_the_real_ones(format, tmp_path):
    write_made_up(PREFERENCES[format], 0, tmp_path / "records.jsonl")
    found = read_preferences(tmp_path / "records.jsonl", format)
    assert found.faults == [] and len(found.preferences) == RECORDS and found.equal == 0


def test_made_up_questions_have_mmlus_layout(tmp_path):
    write_splits(questions(["astronomy", "virology"]), [], tmp_path)
    assert {split: len(read_split(tmp_path, split)["virology"]) for split in ("dev", "val", "test")} == {
        "dev": 5,
        "val": 6,
        "test": 6,
    }
    assert describe(tmp_path)["missing"] == []


def test_all_tiny_architectures_can_be_made():
    assert set(PARTICULARS) == set(get_args(Tiny))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", get_args(Tiny))
def test_a_tiny_model_writes_words_and_ends(architecture, tmp_path):
    settings = ShrunkModel(source="shrunk", architecture=architecture, end_token="</s>", seed=1)
    make_shrunk_model(settings.model_dump(), TargetModules(), tmp_path)
    engine = LocalEngine(tmp_path / "model", Load(chat_template="plain"), batch_size=16)
    assert engine.model.config.model_type == architecture
    asked = [Request([{"role": "user", "content": "Bakers often mend old maps."}], i) for i in range(16)]
    replies = engine.generate(asked, Decoding(max_new_tokens=32))
    assert sum(reply.tokens < 32 for reply in replies) >= 8
    assert sum("." in reply.text for reply in replies) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistralai/Mixtral-8x7B-Instruct-v0.1", "google/gemma-7b-it"])
def test_a_tiny_model_has_its_familys_chat_template(name, tmp_path):
    family = family_of_name(name)
    tokens = {"begin_token": family.begin, "end_token": family.end, "template": family.template}
    settings = ShrunkModel(source="shrunk", architecture=family.architecture, **tokens)
    make_shrunk_model(settings.model_dump(), TargetModules(), tmp_path)
    tokenizer = load_tokenizer(tmp_path / "model", Load())
    assert not chat.takes_system(tokenizer)
    text = chat.conversation([Turn("a", "Rye?")], "b", "You bake.", "Begin.")
    ids = chat.encode(tokenizer, text)
    assert ids.count(tokenizer.bos_token_id) == 1 and "You bake." in tokenizer.decode(ids)


@pytest.mark.slow
def test_the_founding_case_runs_to_its_end_without_network(tmp_path):
    """Mixtral and Llama, in nf4 and float16, through all stages."""
    text = (ROOT / "config/presets/expertchat.yaml").read_text(encoding="utf-8")
    write_config(tmp_path, yaml.safe_load(text) | {"shrink": True})
    snakemake(tmp_path, "all", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    view = tmp_path / "results/experiments/expertchat-shrunk"
    for name, architecture in (("mixtral", "mixtral"), ("llama", "llama")):
        assert read_json(view / f"models/{name}/model/config.json")["model_type"] == architecture
        policy = view / f"round-1/policies/{name}"
        assert read_json(policy / "outcome.json") == {"tuned": True, "steps": 2, "reason": None}
        assert (
            read_json(policy / "manifest.json")["recipe"]["settings"]["load"][name]["quantization"]
            == "nf4"
        )
    summary = read_json(view / "report/summary.json")
    assert summary["rehearsal"] and "its figures mean nothing" in summary["verdict"][0]
    assert "no figure on it means anything" in (view / "report/report.html").read_text(encoding="utf-8")
    shown = subprocess.run(
        [sys.executable, "-m", "expertchat.cli", "show", "--configfile", str(tmp_path / "config.yaml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("This is a rehearsal")


@pytest.mark.slow
@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != "expertchat"])
def test_the_other_presets_are_planned_by_snakemake(preset, tmp_path):
    write_config(tmp_path, yaml.safe_load((ROOT / f"config/presets/{preset}.yaml").read_text("utf-8")))
    output = snakemake(
        tmp_path,
        "all",
        "--dry-run",
        "--config",
        "shrink=true",
        "--profile",
        str(ROOT / "profiles/local"),
    )
    assert "make_models" in output and "make_report" in output


def test_the_users_mistakes_are_found_before_anything_shrinks(default_config):
    default_config["pairs"] = [["llama", "nobody"]]
    with pytest.raises(UserError, match="'nobody' is not a model"):
        shrunk_of(default_config)
