"""A model's folder that later jobs could not open is refused in one sentence."""

import json
import os
import shutil

import pytest
from expertchat.errors import UserError
from expertchat.models import checking
from expertchat.models.folders import link_model
from expertchat.models.targets import TargetModules


def changed(file, **changes):
    def change(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | changes))

    return change


def cut(file, length):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:length])


def replace_by_pipe(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def loop(folder):
    text = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(text)


NOT_WHOLE = "model.safetensors: not a whole safetensors file"
INDEX = "model.safetensors.index.json"
HARM = {
    "weights cut off": (
        cut("model.safetensors", 1000),
        NOT_WHOLE,
    ),
    "weights empty": (cut("model.safetensors", 0), NOT_WHOLE),
    "a header that lies": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        NOT_WHOLE,
    ),
    "index": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"a": "b.safetensors"}}'),
        "it names 'b.safetensors', which is not there",
    ),
    "no index": (
        lambda f: (f / INDEX).write_text("[]"),
        "its weights cannot be opened: TypeError",
    ),
    "layers": (
        changed("config.json", num_hidden_layers=10**9),
        "num_hidden_layers: 1000000000; at most 1,000",
    ),
    "width": (
        changed("config.json", hidden_size=10**12),
        "hidden_size: 1000000000000; at most 100,000,000",
    ),
    "config cut off": (cut("config.json", 20), "config.json cannot be read"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "it is not a mapping"),
    "config is no text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe"),
        "config.json cannot be read",
    ),
    "tokenizer cut off": (cut("tokenizer.json", 200), "its tokenizer cannot be opened"),
    "tokenizer empty": (cut("tokenizer.json", 0), "its tokenizer cannot be opened"),
    "tokenizer's settings": (
        lambda f: (f / "tokenizer_config.json").write_text("[1]"),
        "its tokenizer cannot be opened",
    ),
    "a pipe": (replace_by_pipe, "tokenizer.json: neither a file nor a folder"),
    "a device": (
        lambda f: (f / "extra.json").symlink_to("/dev/zero"),
        "extra.json: neither a file nor a folder",
    ),
    "template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "its chat template fails on messages",
    ),
    "a template without end": (loop, "its chat template cannot be opened within 1 seconds"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_folder_that_cannot_be_opened_is_refused(llama_folder, tmp_path, monkeypatch, harm):
    change, words = HARM[harm]
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    change(folder)
    if harm == "a template without end":
        monkeypatch.setattr(checking, "SECONDS", 1.0)
    (tmp_path / "artifact").mkdir()
    with pytest.raises(UserError) as caught:
        link_model(folder, TargetModules(), tmp_path / "artifact")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "artifact").iterdir())
    if "template" in harm:  # which is not used if the settings have another
        link_model(folder, TargetModules(), tmp_path / "artifact", needs_template=False)
