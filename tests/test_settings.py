"""Invalid settings end with a sentence before any job starts: the key, the value, what is allowed."""

import re
from copy import deepcopy
from datetime import date

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from planning import HUB_FILE, changed, fault_of


def test_the_default_is_valid(default_config, root):
    experiment = read_experiment(default_config, root)
    assert experiment.talking_pairs == [("llama", "mixtral")]
    assert experiment.rounds == 1


SERVER = "models.llama.load.server"
PAIR = "must be a pair, such as [a, b]"
SOURCES = "must be 'demo', 'path', 'hub', 'gguf', 'package', 'shrunk' or 'server'"
STYLES = "must be 'harness', 'hendrycks' or 'chat'"

# (key, value, the sentence, or its parts in order)
CASES = {
    # unknown and misplaced keys, at every level
    "unknown key": (
        "learning",
        1,
        "learning: unknown key; known keys: control, dialogues, judgements, ",
    ),
    "unknown key, close to one": (
        "ppo.learning_rte",
        1e-3,
        "ppo.learning_rte: unknown key; did you mean learning_rate?",
    ),
    "unknown key in a model": (
        "models.llama.sed",
        1,
        "models.llama.sed: unknown key; did you mean seed?",
    ),
    "unknown key, two levels down": ("ppo.lora.rnk", 8, "ppo.lora.rnk: unknown key; did you mean rank?"),
    "unknown key in load": (
        "models.llama.load.dtpye",
        "auto",
        "models.llama.load.dtpye: unknown key; did you mean dtype?",
    ),
    "key of another source": (
        "models.llama.repository",
        "a/b",
        "models.llama.repository: unknown key for source: demo; it belongs to source: hub, and may come "
        "from another file of --configfile",
    ),
    "key of another level": ("turns", 3, "turns: unknown key here; did you mean dialogues.turns?"),
    "key of several other sections": (
        "learning_rate",
        1e-3,
        "learning_rate: unknown key here; did you mean sft.learning_rate or rewards.learning_rate or "
        "ppo.learning_rate?",
    ),
    "key of the rubric": ("ratings.high", 5, "ratings.high: unknown key; known keys: anchors, "),
    # missing keys
    "no name": ("name", None, "name: null; must be a string"),
    "no source": ("models.new", {}, f"models.new.source: missing; {SOURCES}"),
    "no revision": (
        "models.new",
        {"source": "hub", "repository": "a/b"},
        "models.new.revision: missing; this key is required",
    ),
    "no path": ("topics.file", {"mode": "extend"}, "topics.file.path: missing; this key is required"),
    "no server": (
        "models.new",
        {"source": "server", "load": {}},
        "models.new.load.server: missing; this key is required if source is 'server'",
    ),
    "no keys": (
        "ppo",
        None,
        "ppo: null; must be a mapping: indent its keys below it, or remove the key",
    ),
    # wrong types
    "text for an integer": ("rounds", "two", "rounds: 'two'; must be an integer"),
    "fraction for an integer": ("seed", 1.5, "seed: 1.5; must be an integer"),
    "list for an integer": ("seed", [1], "seed: [1]; must be an integer"),
    "boolean for an integer": ("mmlu.limit", True, "mmlu.limit: true; must be an integer"),
    "boolean in a list": (
        "dialogues.candidate_turns",
        [1, False],
        "dialogues.candidate_turns: false; must be an integer",
    ),
    "text for a number": ("ppo.gamma", "high", "ppo.gamma: 'high'; must be a number"),
    "infinity": ("ppo.learning_rate", float("inf"), "ppo.learning_rate: .inf; must be a finite number"),
    "text for a boolean": ("dialogues.swap", "maybe", "dialogues.swap: 'maybe'; must be true or false"),
    "number for a string": ("name", 3, "name: 3; must be a string: put it in quotes"),
    "date for a string": ("name", date(2024, 1, 1), "name: 2024-01-01; must be a string"),
    "string for a list": (
        "models.llama.knows",
        "baking",
        "models.llama.knows: 'baking'; must be a list",
    ),
    "number in a list": (
        "models.llama.knows",
        ["baking", 1],
        "models.llama.knows.1: 1; must be a string: put it in quotes",
    ),
    "list for a mapping": ("models", [], "models: []; must be a mapping"),
    "number for a model": ("models.llama", 3, "models.llama: 3; must be a mapping"),
    "number for questions": ("mmlu.questions", 3, "mmlu.questions: 3; must be a mapping"),
    "text in a mapping of numbers": (
        "mmlu.published",
        {"llama": "good"},
        "mmlu.published.llama: 'good'; must be a number",
    ),
    "number for a model's name": (
        "models",
        {1: {"source": "path", "path": "a"}},
        "models: the key 1 must be a string: put it in quotes",
    ),
    "unquoted no for a model's name": (  # which YAML reads as false
        "models",
        {False: {"source": "path", "path": "a"}},
        "models: the key false must be a string: put it in quotes",
    ),
    "number for a key of the body": (
        SERVER,
        {"url_env": "A", "body": {1: 2}},
        f"{SERVER}.body: the key 1 must be a string: put it in quotes",
    ),
    # limits and choices
    "below its minimum": ("rounds", -1, "rounds: -1; must be at least 0"),
    "not positive": ("ppo.lora.rank", 0, "ppo.lora.rank: 0; must be greater than 0"),
    "above its maximum": ("mmlu.shots", 6, "mmlu.shots: 6; must be at most 5"),
    "not below its limit": (
        "rewards.lora.dropout",
        1,
        "rewards.lora.dropout: 1; must be less than 1",
    ),
    "not a choice": ("control", "shuffle", "control: 'shuffle'; must be 'none' or 'shuffled'"),
    "not a choice of three": ("mmlu.style", "plain", f"mmlu.style: 'plain'; {STYLES}"),
    "unknown source": ("models.llama", {"source": "web"}, f"models.llama.source: 'web'; {SOURCES}"),
    "source that is a number": (
        "mmlu.questions",
        {"source": 3},
        "mmlu.questions.source: 3; must be 'demo', 'folder', 'hub' or 'made-up'",
    ),
    "no models": ("models", {}, "models: {}; must not be empty"),
    "empty list": ("models.llama.knows", [], "models.llama.knows: []; must not be empty"),
    "empty text": (
        "topics.file",
        {"path": "a", "subject": ""},
        "topics.file.subject: ''; must not be empty",
    ),
    "too few entries": (
        "dialogues.roles",
        ["speaker"],
        "dialogues.roles: ['speaker']; must have at least 2 entries",
    ),
    "too many entries": (
        "dialogues.roles",
        ["speaker"] * 3,
        "dialogues.roles: ['speaker', 'speaker', 'speaker']; must have at most 2 entries",
    ),
    "name with a space": (
        "name",
        "a b",
        "name: 'a b'; must consist of letters, digits, '_', '.' and '-'",
    ),
    "no owner": (
        "models.new",
        {"source": "hub", "repository": "gpt2", "revision": "main"},
        "models.new.repository: 'gpt2'; must have the form owner/name",
    ),
    # keys that allow several types
    "text for pairs": ("pairs", "all", "pairs: 'all'; must be a list or 'round_robin'"),
    "mapping for pairs": ("pairs", {"a": "b"}, "pairs: a mapping; must be a list or 'round_robin'"),
    "one name in a pair": ("pairs", [["llama"]], f"pairs.0: ['llama']; {PAIR}"),
    "three names in a pair": (
        "pairs",
        [["llama", "mixtral", "llama"]],
        f"pairs.0: ['llama', 'mixtral', 'llama']; {PAIR}",
    ),
    "number in a pair": ("pairs", [["llama", 1]], "pairs.0.1: 1; must be a string: put it in quotes"),
    "one pair without its brackets": (
        "pairs",
        ["llama", "mixtral"],
        f"pairs.0: 'llama'; {PAIR}|pairs.1: 'mixtral'; {PAIR}",
    ),
    "number for subjects": ("topics.subjects", 3, "topics.subjects: 3; must be a list or a string"),
    "number in subjects": ("topics.subjects", [1], "topics.subjects.0: 1; must be a string"),
    # servers
    "neither command nor address": (
        SERVER,
        {},
        f"{SERVER}.command: exactly one of the keys command and url_env must be given",
    ),
    "no port": (
        SERVER,
        {"command": "vllm {folder}"},
        f"{SERVER}.command: must contain {{port}}",
    ),
    "unknown placeholder": (
        SERVER,
        {"command": "vllm {prot}"},
        f"{SERVER}.command: unknown placeholder {{prot}}; known: {{folder}}, {{gguf}}, {{port}}",
    ),
    # several keys together
    "no pairs": ("pairs", [], "pairs: empty; give the pairs of models that talk"),
    "unknown model": (
        "pairs",
        [["llama", "lama"]],
        "pairs: 'lama' is not a model; known: llama, mixtral",
    ),
    "one pair twice": (
        "pairs",
        [["llama", "mixtral"], ["mixtral", "llama"]],
        "pairs: [llama, mixtral] is given more than once",
    ),
    "tuning on transcripts": (
        "dialogues.transcripts",
        "README.md",
        "rounds: 1; models cannot be tuned on dialogues.transcripts",
    ),
    "what transcripts do not use": (
        "dialogues.transcripts",
        "README.md",
        "pairs: has no effect with dialogues.transcripts|topics: has no effect|mmlu: has no effect",
    ),
    "no candidates": (
        "dialogues.candidate_turns",
        [],
        "dialogues.candidate_turns: []; each model that is tuned needs candidate replies",
    ),
    "no such turn": (
        "dialogues.candidate_turns",
        [4],
        "dialogues.candidate_turns: [4]; there is no turn 4: the turns are 0 to 3",
    ),
    "greedy candidates": (
        "dialogues.decoding",
        {"strategy": "greedy"},
        "dialogues.decoding.strategy: 'greedy'; all candidate replies would be the same",
    ),
    "uneven minibatches": (
        "ppo.minibatch_size",
        20,
        "ppo.minibatch_size: 20; must divide batch_size, which is 48",
    ),
    "cloze in Hendrycks' style": (
        "mmlu.style",
        "hendrycks",
        "mmlu.formulation: 'cloze'; must be 'letter' if style is 'hendrycks'",
    ),
    "no world": ("world", None, "models.llama.source: 'demo'; needs the section world"),
    "third party that talks": (
        "ratings.third_party",
        ["llama"],
        "ratings.third_party: 'llama' takes part in the dialogues",
    ),
    "unknown third party": (
        "ratings.third_party",
        ["gpt"],
        "ratings.third_party: 'gpt' is not a model; known: llama, mixtral",
    ),
    "null of --config": (
        "world",
        "null",
        "world: 'null'; must be a mapping; null is a word here: set it in a file of --configfile",
    ),
    # algorithms of policy optimization
    "a group of one": (
        "ppo.algorithm",
        "rloo",
        "ppo.replies_per_context: 1; rloo compares the replies to one context: give at least 2",
    ),
    "groups that do not fill a step": (
        "ppo.replies_per_context",
        7,
        "ppo.replies_per_context: 7; must divide batch_size, which is 48",
    ),
    "unknown algorithm": (
        "ppo.algorithm",
        "dpo",
        "ppo.algorithm: 'dpo'; must be 'ppo', 'rloo' or 'grpo'",
    ),
    # supervised fine-tuning
    "sft of an unknown model": (
        "sft",
        {"instructions": [HUB_FILE], "models": ["gpt"]},
        "sft.models: 'gpt' is not a model; known: llama, mixtral",
    ),
    "no instructions": ("sft", {"instructions": []}, "sft.instructions: []; "),
    "instructions of an unknown type": (
        "sft",
        {"instructions": [HUB_FILE | {"file": "d.parquet"}]},
        "sft.instructions: d.parquet; unknown file type; read are .json, .jsonl, .json.gz, .jsonl.gz",
    ),
    "no such instructions": (
        "sft",
        {"instructions": [{"source": "file", "path": "nowhere.json", "format": "dolly"}]},
        "sft.instructions: nowhere.json; no such file",
    ),
    # files and names outside of the settings
    "unknown role": ("dialogues.roles", ["speaker", "judge"], "prompts: |judge.jinja"),
    "no prompts": ("prompts", "config/nowhere", "prompts: config/nowhere; there is no such folder"),
    "no held-out left": ("topics.held_out_subjects", 8, "topics.held_out_subjects: 8|less than"),
    "no such subject": ("topics.subjects", ["baking", "karate"], "'karate'|pottery"),
    "no rubric": (
        "ratings.rubric",
        "config/rubrics/none.yaml",
        "ratings.rubric: |none.yaml: No such file or directory; ratings.rubric must name a YAML file",
    ),
    "too few paraphrases": (
        "ratings.repeats",
        2,
        "demo.yaml: categories.0.paraphrases: 'expertise' has 1 of the 2 wordings",
    ),
    "no anchors": ("ratings.anchors", "none.jsonl", "ratings.anchors: |none.jsonl: No such file"),
    "missing model": (
        "models.llama",
        {"source": "path", "path": "models/none"},
        "models.llama.path: models/none|config.json",
    ),
    "no questions": (
        "mmlu.questions",
        {"source": "folder", "path": "none"},
        "mmlu.questions.path: none|test",
    ),
}
PYTHON_WORDS = re.compile(
    r"tuple|dict|instance|None|True|False|pydantic|validation |Traceback|tag|discriminator|pars"
    r"|\b(str|int|float|bool)\b"
)


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_names_key_value_and_what_is_allowed(case, default_config, root):
    path, value, expected = CASES[case]
    head, *lines = fault_of(changed(default_config, path, value), root).split("\n  ")
    assert head == "invalid settings:"
    message, place = "\n".join(lines), 0
    for part in expected.split("|"):
        place = message.find(part, place)
        assert place >= 0, message
    assert not PYTHON_WORDS.search(message), message
    assert len(lines) == len(set(lines)) and all(line == line.strip() for line in lines)


def test_a_wrong_type_gives_one_sentence(default_config, root):
    for key, value in (("pairs", "x"), ("topics.subjects", 3), ("models", None), ("seed", [])):
        message = fault_of(changed(deepcopy(default_config), key, value), root)
        assert message.count("\n") == 1, message


def test_all_faults_are_reported_at_once(default_config, root):
    config = changed(changed(default_config, "rounds", -1), "seed", "x")
    message = fault_of(config, root)
    assert "rounds: -1" in message and "seed: 'x'" in message


def test_values_that_may_be_secret_are_not_shown(default_config, root):
    server = {"url_env": "https://me:pass@host", "key_env": "sk-123"}
    assert "pass" not in fault_of(changed(default_config, SERVER, server), root)
    server = {"url_env": "URL", "key_env": 123456, "api_key": "sk-123"}
    message = fault_of(changed(default_config, SERVER, server), root)
    assert "key_env: must be a string" in message and "api_key: unknown key" in message
    assert "123" not in message
    assert "sk-123" not in fault_of(changed(default_config, SERVER, [{"api_key": "sk-123"}]), root)


def test_long_values_are_cut_off(default_config, root):
    message = fault_of(changed(default_config, "seed", "x" * 1000), root)
    assert "..." in message and len(message) < 200


@pytest.mark.parametrize("name", ["uniform", "oracle", "best_single", "majority vote"])
def test_a_model_that_is_mixed_cannot_have_a_mixtures_name(default_config, root, name):
    models = {name: default_config["models"]["llama"], "mixtral": default_config["models"]["mixtral"]}
    config = default_config | {"models": models, "pairs": [[name, "mixtral"]]}
    expected = f"models.{name}: a row of the mixtures' results has this name too: rename the model"
    assert expected in fault_of(config, root)
    read_experiment(config | {"mmlu": config["mmlu"] | {"mixture": False}}, root)
    read_experiment(config | {"mmlu": None}, root)


def test_all_weights_of_a_quantized_model_cannot_be_tuned(default_config, root):
    hub = {"source": "hub", "repository": "a/b", "revision": "c", "load": {"quantization": "nf4"}}
    default_config["models"]["llama"] = hub
    default_config["sft"] = {"instructions": [HUB_FILE], "method": "full", "models": ["llama"]}
    assert "sft.method: full; the weights of llama are quantized" in fault_of(default_config, root)
    default_config["sft"]["method"] = "lora"
    read_experiment(default_config, root)


def test_invalid_names_of_models_and_mixtures_are_reported(default_config, root):
    default_config["models"]["a/b"] = default_config["models"]["llama"]
    default_config["mmlu"]["published"] = {"llama": 60, "uniform": 70, "unifrom": 80}
    with pytest.raises(UserError) as caught:
        read_experiment(default_config, root)
    assert "models: 'a/b'; the name must not contain slashes" in str(caught.value)
    assert "mmlu.published: 'unifrom' is neither a model nor a mixture; known: llama" in str(
        caught.value
    )
    default_config["mmlu"] |= {"mixture": False, "published": {"uniform": 70}}
    with pytest.raises(UserError, match="'uniform' is neither a model"):
        read_experiment(default_config, root)
