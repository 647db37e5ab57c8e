"""Faults of the files and names that the settings refer to are found when planning."""

import shutil

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import prompt_trials
from expertchat.pipeline.experiment import read_experiment
from expertchat.prompts import VALUES, template_faults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "You are an expert.\nTopic: {{ topik }}",
            "line 2: unknown name 'topik'; known: audience, kind",
        ),
        ("{% if topic %}", "line 1: Unexpected end of template"),
        ("a\n{% include 'other.jinja' %}", "line 2: a prompt cannot use other files"),
        ("a\n{% import 'other.jinja' as o %}{{ o.x }}", "line 2: a prompt cannot use other files"),
        ("a\n{{ topic.x }}", "line 2: it cannot be rendered: UndefinedError: "),
        ("a\n{{ topic / 2 }}", "line 2: it cannot be rendered: TypeError: "),
        ("{{ 'x' * 10 ** 9 }}", "line 1: it cannot be rendered: SecurityError: a text or list of more"),
        ("{{ 9 ** 999 }}", "line 1: it cannot be rendered: SecurityError: an exponent above 64"),
        ("{{ range(10 ** 8) | list }}", "line 1: it cannot be rendered: OverflowError: Range too big"),
    ],
)
def test_a_fault_in_a_prompt_is_found_when_planning(default_config, root, tmp_path, text, message):
    prompts = tmp_path / "prompts"
    shutil.copytree(root / default_config["prompts"], prompts)
    (prompts / "speaker.jinja").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_experiment(default_config | {"prompts": str(prompts)}, root)
    assert f"prompts: {prompts / 'speaker.jinja'}, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfea", ", line 1: not UTF-8 (byte 0xff)"),
        (
            b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            ": it is not rendered within 1 seconds: look for a loop without an end",
        ),
        (b"x" * 1_000_001, ": it is rendered to 1,000,001 characters; at most 1,000,000 are allowed"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_found_when_planning(
    default_config, root, tmp_path, monkeypatch, text, message
):
    monkeypatch.setattr(prompt_trials, "SECONDS", 1.0)
    prompts = tmp_path / "prompts"
    shutil.copytree(root / default_config["prompts"], prompts)
    (prompts / "speaker.jinja").write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_experiment(default_config | {"prompts": str(prompts)}, root)
    assert f"prompts: {prompts / 'speaker.jinja'}{message}" in str(caught.value)


@pytest.mark.parametrize("folder", ["config/prompts", "config/prompts/demo"])
def test_the_prompts_that_come_with_the_project_use_known_names(root, folder):
    for path in (root / folder).glob("*.jinja"):
        assert not list(template_faults(path, VALUES.get(path.stem, VALUES["opening"])))
        assert prompt_trials.prompt_faults(path, path.stem) == []


def test_demo_models_are_not_asked_for_what_they_were_not_trained_on(default_config, root, tmp_path):
    rubric = tmp_path / "mine.yaml"
    rubric.write_text("categories: [{name: wit, description: is funny}]", encoding="utf-8")
    default_config["ratings"] |= {"rubric": str(rubric)}
    with pytest.raises(UserError) as caught:
        read_experiment(default_config, root)
    assert "mine.yaml; demo models cannot rate 'wit', only expertise, human-likeness" in str(
        caught.value
    )


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LOOP, ": it is not rendered within 1 seconds: look for a loop without an end"),
        ("{% for message in messages %}", ", line 1: Unexpected end of template"),
        ("a\n{{ raise_exception('no') }}", ", line 2: it cannot be rendered: TemplateError: no"),
        ("{{ messages[7].content }}", ", line 1: it cannot be rendered: UndefinedError: "),
        ("x" * 1_000_001, ": it is rendered to 1,000,001 characters; at most 1,000,000 are allowed"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_found_when_planning(
    default_config, root, tmp_path, monkeypatch, text, message
):
    monkeypatch.setattr(prompt_trials, "SECONDS", 1.0)
    path = tmp_path / "chat.jinja"
    path.write_text(text, encoding="utf-8")
    for model in default_config["models"].values():
        model["load"] = {"chat_template": str(path)}
    with pytest.raises(UserError) as caught:
        read_experiment(default_config, root)
    name = next(iter(default_config["models"]))
    assert str(caught.value).splitlines()[1:] == [
        line for line in str(caught.value).splitlines() if f"models.{name}.load.chat_template: " in line
    ]
    assert f"{path}{message}" in str(caught.value)


def test_chat_templates_with_what_transformers_adds_are_accepted(default_config, root, tmp_path):
    path = tmp_path / "chat.jinja"
    text = "{% for m in messages %}{% generation %}{{ bos_token }}{{ m | tojson }}{% endgeneration %}"
    path.write_text(text + "{% break %}{% endfor %}{{ strftime_now('%Y') }}", encoding="utf-8")
    default_config["models"]["llama"]["load"] = {"chat_template": str(path)}
    assert read_experiment(default_config, root).models["llama"].load.chat_template == str(path)
