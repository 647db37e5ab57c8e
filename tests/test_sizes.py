"""Settings and YAML files of sizes that nothing could be made of are refused at once."""

import os

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_config, read_experiment

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "it has 1,234,567,901,2"),
        ("a: &a\n  b: *a\n", "an alias (`*name`) stands for a part of the file that contains it"),
        ("a: &a [1, *a]\n", "an alias (`*name`) stands for a part"),
        ("a: " + "[" * 60 + "]" * 60, "its values are nested more than 40 levels deep"),
        ("a: " + "[" * 20_000, "not valid YAML"),
        ("a: [" + "1, " * 100_001 + "]", "it has 100,004 values"),
        ("a: " + "x" * (4 << 20), "at most 4,194,304 are read"),
    ],
)
def test_a_yaml_file_that_stands_for_too_much_is_refused(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config([path])
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match="it is not a file"):
            read_config([type(tmp_path)(path)])


def test_aliases_may_be_used_as_usual(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: [*a, *a]}\n")
    assert read_config([tmp_path / "c.yaml"])["c"]["x"] == 1


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rounds", 10**9, "rounds: 1000000000; must be at most 100"),
        ("dialogues", {"shards": 10**6}, "dialogues.shards: 1000000; must be at most 1,000"),
        ("ppo", {"steps": 10**12}, "ppo.steps: 1000000000000; must be at most 1,000,000"),
        (
            "dialogues",
            {"decoding": {"temperature": 1e-300}},
            "temperature: 1e-300; must be at least 0.01",
        ),
        ("rewards", {"learning_rate": 1e30}, "rewards.learning_rate: 1e+30; must be at most 1"),
        (
            "dialogues",
            {"roles": ["a/b", "speaker"]},
            "dialogues.roles: 'a/b'; a role must not contain slash",
        ),
        (
            "dialogues",
            {"roles": ["../x", "speaker"]},
            "dialogues.roles: '../x'; a role must not contain",
        ),
        ("name", "n" * 300, "name: 'nnnn"),
        (
            "dialogues",
            {"roles": ["r" * 300, "speaker"]},
            "a name is a part of file names and may have at most",
        ),
    ],
)
def test_values_of_impossible_sizes_are_refused(default_config, root, key, value, words):
    section = default_config.get(key)
    default_config[key] = section | value if isinstance(value, dict) and section else value
    with pytest.raises(UserError) as caught:
        read_experiment(default_config, root)
    assert words in str(caught.value)


def test_more_jobs_than_can_be_planned_are_refused(default_config, root):
    default_config |= {"rounds": 100}
    default_config["dialogues"] |= {"shards": 1000}
    with pytest.raises(UserError, match=r"about 30\d,\d{3} jobs; at most 50,000 can be planned"):
        read_experiment(default_config, root)
