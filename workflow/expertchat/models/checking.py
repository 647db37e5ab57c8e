"""A model's folder is opened as later jobs will open it, under a time limit, before any of them runs.

Its weights are not read: only the headers of its safetensors files are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from expertchat import chat
from expertchat.errors import UserError
from expertchat.foreign import one_line
from expertchat.limits import within
from expertchat.settings.models import Load

SECONDS = 120.0  # for each step; a large tokenizer takes a few
MOST_LAYERS, LARGEST = 1_000, 10**8  # of a configuration: layers, and any other number
SHOWN_CHARACTERS = 300  # of a library's error
INDEX = "model.safetensors.index.json"
TRIAL = ["How long does dough rise?", "An hour.", "Why?"]  # a conversation for the chat template


def check_files(folder: Path) -> None:
    """Raises UserError if something in the folder is not a file that ends (a pipe, a device), or if a
    safetensors file or the index of several cannot be read."""
    for path in sorted(folder.rglob("*")):
        if not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: neither a file nor a folder")
    step(f"{folder}: its weights", lambda: _check_weights(folder))


def check_numbers(folder: Path, config: Any) -> None:
    """Raises UserError if a number in config.json is so large that the model could not be built."""
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: it is not a mapping")
    for key, value in _numbers(config):
        name = key.rpartition(".")[2]
        is_layers = re.search(r"layers?$|^n_layer$|^num_hidden_layers$", name) is not None
        most = MOST_LAYERS if is_layers else LARGEST
        if isinstance(value, int) and value > most:
            raise UserError(f"{folder / 'config.json'}: {key}: {value}; at most {most:,} is possible")


def check_tokenizer(folder: Path, needs_template: bool = True) -> None:
    """Raises UserError if the tokenizer cannot be opened within the time limit or, with
    `needs_template`, its chat template not be rendered."""
    from expertchat.engine.training import load_tokenizer

    tokenizer = step(f"{folder}: its tokenizer", lambda: load_tokenizer(folder, Load()))
    if not needs_template or not tokenizer.chat_template:
        return
    messages: list[chat.Message] = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant", "user"), TRIAL, strict=True)
    ]
    step(f"{folder}: its chat template", lambda: chat.render(tokenizer, messages))


def step(what: str, function: Callable[[], Any]) -> Any:
    """The result of `function`. Its errors, and a run of more than `SECONDS`, become UserErrors."""
    try:
        return within(SECONDS, function)
    except TimeoutError:
        raise UserError(f"{what} cannot be opened within {SECONDS:g} seconds") from None
    except UserError:
        raise
    except Exception as error:  # libraries raise many kinds of errors for damaged files
        words = one_line(f"{type(error).__name__}: {error}", SHOWN_CHARACTERS)
        raise UserError(f"{what} cannot be opened: {words}") from None


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    names = {path.name for path in folder.glob("*.safetensors")}
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        named = set(index["weight_map"].values())
        for name in sorted(named - names, key=str):
            raise UserError(
                f"{folder / INDEX}: it names {one_line(str(name), 100)!r}, which is not there"
            )
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="np") as file:
                file.keys()
        except SafetensorError as error:
            raise UserError(f"{folder / name}: not a whole safetensors file ({error})") from None


def _numbers(config: dict[str, Any], before: str = "") -> Iterator[tuple[str, int | float]]:
    """(key, value) of all numbers in a configuration and its parts."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{before}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{before}{key}", value
