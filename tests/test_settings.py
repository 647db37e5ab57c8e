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


LAW = "q{},a,b,c,d,A\n"


@pytest.fixture
def questions(tmp_path):
    """A folder with one subject: 2 questions in dev, 6 in val, 3 in test, all different."""
    for split, numbers in {"dev": range(2), "val": range(10, 16), "test": range(20, 23)}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / f"law_{split}.csv").write_text("".join(LAW.format(k) for k in numbers))
    return tmp_path


def asking(config, folder, **mmlu):
    questions = {"source": "folder", "path": str(folder)}
    return config | {"mmlu": {"questions": questions, "shots": 2} | mmlu}


def test_a_dev_file_with_too_few_rows_is_found_before_any_job(default_config, root, questions):
    read_experiment(asking(default_config, questions), root)
    message = fault_of(asking(default_config, questions, shots=3), root)
    assert "mmlu.questions.path: " in message
    assert "law_dev.csv: 2 questions, but mmlu.shots is 3" in message
    (questions / "dev/law_dev.csv").write_text("q,a,b\n")
    message = fault_of(asking(default_config, questions, shots=1), root)
    assert "law_dev.csv, line 1: 3 columns, but 6 are needed" in message


def test_too_few_val_questions_are_found_before_any_job(default_config, root, questions):
    few = "mixtures are fitted on at least 5 val questions that are not in test, and there are 4"
    assert few in fault_of(asking(default_config, questions, limit=4), root)
    read_experiment(asking(default_config, questions, limit=4, mixture=False), root)
    with (questions / "test/law_test.csv").open("a") as file:
        file.write(LAW.format(10) + LAW.format(11).upper())  # questions that val has too
    assert few in fault_of(asking(default_config, questions), root)
    (questions / "val/law_val.csv").write_text("q,a,b,c,d,F\n")
    message = fault_of(asking(default_config, questions), root)
    assert "law_val.csv, line 1: the right answer is 'F'" in message


@pytest.mark.parametrize("name", ["uniform", "oracle", "best_single", "majority vote"])
def test_a_model_that_is_mixed_cannot_have_a_mixtures_name(default_config, root, name):
    models = {name: default_config["models"]["llama"], "mixtral": default_config["models"]["mixtral"]}
    config = default_config | {"models": models, "pairs": [[name, "mixtral"]]}
    expected = f"models.{name}: a row of the mixtures' results has this name too: rename the model"
    assert expected in fault_of(config, root)
    read_experiment(config | {"mmlu": config["mmlu"] | {"mixture": False}}, root)
    read_experiment(config | {"mmlu": None}, root)


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
    assert "mmlu.published: 'unifrom' is not a model or a mixture; known: llama" in str(caught.value)
    default_config["mmlu"] |= {"mixture": False, "published": {"uniform": 70}}
    with pytest.raises(UserError, match="'uniform' is not a model"):
        read_experiment(default_config, root)
