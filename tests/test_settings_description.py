"""The description of the settings in config/README.md: complete, current, with valid examples."""

import re
from pathlib import Path

import pytest
import yaml
from expertchat.settings.anchors import Anchor
from expertchat.settings.describe import describe_settings, description_and_example
from expertchat.settings.experiment import Experiment
from expertchat.settings.rubrics import Rubric
from expertchat.settings.section import section_paths


def test_the_description_of_the_settings_is_current(root):
    text = (Path(root) / "config/README.md").read_text(encoding="utf-8")
    assert text == describe_settings(), "run `make docs`"


def test_every_key_has_a_sentence(root):
    for line in describe_settings().splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").endswith("."), line


SECTIONS = {cls.__name__: cls for root in (Experiment, Rubric, Anchor) for _, cls in section_paths(root)}


@pytest.mark.parametrize("name", sorted(set(SECTIONS) - {"Experiment"}))
def test_every_section_has_a_description_and_a_valid_example(name):
    description, example = description_and_example(SECTIONS[name])
    assert description.endswith(".") and example
    SECTIONS[name].model_validate(yaml.safe_load(example))


def test_the_links_of_the_description_lead_to_its_headings(root):
    text = describe_settings()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#([\w-]+)\)$", text, re.MULTILINE)
    assert [heading for heading, _ in links] == headings
    assert len({slug for _, slug in links}) == len(links)
    assert {"`ppo`", "`sft.lora`, `rewards.lora`, `ppo.lora`", "Rubric file: `categories`"} <= set(
        headings
    )
