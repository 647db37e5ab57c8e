"""A user's mistake ends before any job starts, with the key, the value and what is allowed."""

from pathlib import Path

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.settings.describe import describe_settings


def fault_of(config, root, tmp_path=None) -> str:
    with pytest.raises(UserError) as caught:
        read_experiment(config, root)
    return str(caught.value)


def test_the_default_is_valid(default_config, root):
    experiment = read_experiment(default_config, root)
    assert experiment.talking_pairs == [("llama", "mixtral")]
    assert experiment.rounds == 1


def changed(config, path, value):
    *parents, last = path.split(".")
    place = config
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return config


CASES = {
    "unknown key, nearest named": ("ppo.learning_rte", 1e-3, ["ppo.learning_rte", "learning_rate"]),
    "unknown key in a model": ("models.llama.sourc", 1, ["models.llama.sourc", "source"]),
    "wrong type": ("rounds", "two", ["rounds: 'two'", "integer"]),
    "below its least": ("rounds", -1, ["rounds: -1", "greater than or equal to 0"]),
    "not a choice": ("control", "shuffle", ["control: 'shuffle'", "'shuffled'"]),
    "nobody talks": ("pairs", [], ["pairs: empty"]),
    "tuning on transcripts": (
        "dialogues.transcripts",
        "README.md",
        ["rounds: 1; models cannot be tuned on dialogues.transcripts"],
    ),
    "no candidates": ("dialogues.candidate_turns", [], ["needs candidate replies at some turn"]),
    "greedy candidates": (
        "dialogues.decoding",
        {"strategy": "greedy"},
        ["greedy; candidate replies would all be the same"],
    ),
    "unknown role": ("dialogues.roles", ["speaker", "judge"], ["there is no judge.jinja"]),
    "unknown model": ("pairs", [["llama", "lama"]], ["pairs: 'lama'", "llama, mixtral"]),
    "one pair twice": (
        "pairs",
        [["llama", "mixtral"], ["mixtral", "llama"]],
        ["pairs: llama and mixtral stand twice"],
    ),
    "no held-out left": ("topics.held_out_subjects", 8, ["topics.held_out_subjects: 8", "less than"]),
    "no such subject": ("topics.subjects", ["baking", "karate"], ["'karate'", "pottery"]),
    "no such turn": ("dialogues.candidate_turns", [4], ["dialogues.candidate_turns: turn 4", "0 to 3"]),
    "uneven minibatches": ("ppo.minibatch_size", 20, ["ppo.minibatch_size: 20", "divide"]),
    "a key that moved to the rubric": ("ratings.high", 5, ["ratings.high: unknown key"]),
    "no rubric": (
        "ratings.rubric",
        "config/rubrics/none.yaml",
        ["ratings.rubric: ", "none.yaml: No such file"],
    ),
    "too few paraphrases": (
        "ratings.repeats",
        2,
        ["demo.yaml: categories.0.paraphrases", "words for 1 of the 2 repeats"],
    ),
    "no anchors": ("ratings.anchors", "none.jsonl", ["ratings.anchors: ", "none.jsonl: No such"]),
    "a third party that talks": ("ratings.third_party", ["llama"], ["'llama' takes part"]),
    "an unknown third party": ("ratings.third_party", ["gpt"], ["'gpt' is no model"]),
    "no prompts": ("prompts", "config/nowhere", ["prompts: config/nowhere", "topic.jinja"]),
    "no world": ("world", None, ["models.llama.source: demo", "world"]),
    "missing model": (
        "models.llama",
        {"source": "path", "path": "models/none"},
        ["models.llama.path: models/none", "config.json"],
    ),
    "unknown source": ("models.llama", {"source": "web"}, ["models.llama", "'demo', 'path', 'hub'"]),
    "no questions": (
        "mmlu.questions",
        {"source": "folder", "path": "none"},
        ["mmlu.questions.path: none", "test"],
    ),
    "infinite": ("ppo.learning_rate", float("inf"), ["ppo.learning_rate", "finite"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_names_key_value_and_what_is_allowed(case, default_config, root):
    path, value, expected = CASES[case]
    message = fault_of(changed(default_config, path, value), root)
    assert all(part in message for part in expected), message
    assert "Traceback" not in message and "pydantic" not in message


def test_all_faults_are_told_at_once(default_config, root):
    config = changed(changed(default_config, "rounds", -1), "seed", "x")
    message = fault_of(config, root)
    assert "rounds: -1" in message and "seed: 'x'" in message


def test_a_folder_without_a_dev_file_is_named(default_config, root, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/law_test.csv").write_text("q,a,b,c,d,A\n")
    config = changed(default_config, "mmlu.questions", {"source": "folder", "path": str(tmp_path)})
    assert "dev/law_dev.csv is missing" in fault_of(config, root)


def test_the_description_of_the_settings_is_current(root):
    text = (Path(root) / "config/README.md").read_text(encoding="utf-8")
    assert text == describe_settings(), "run `make docs`"


def test_every_key_has_a_sentence(root):
    for line in describe_settings().splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").endswith("."), line


def test_names_that_cannot_stand_for_anything_are_told(default_config, root):
    default_config["models"]["a/b"] = default_config["models"]["llama"]
    default_config["mmlu"]["published"] = {"llama": 60, "uniform": 70, "unifrom": 80}
    with pytest.raises(UserError) as caught:
        read_experiment(default_config, root)
    assert "models.a/b: a name is a part of file names" in str(caught.value)
    assert "mmlu.published: 'unifrom' is neither a model nor a mixture; known: llama" in str(
        caught.value
    )
    default_config["mmlu"] |= {"mixture": False, "published": {"uniform": 70}}
    with pytest.raises(UserError, match="'uniform' is neither a model"):
        read_experiment(default_config, root)
