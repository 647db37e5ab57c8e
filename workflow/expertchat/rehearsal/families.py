"""Model families by the names of their repositories and files, so that a rehearsal needs no network.

A family is what a tiny model of it needs to be told. The chat templates in templates/ are written after
the families' published ones: they accept and refuse the same roles, and put the same tokens in the same
places. This module imports nothing heavy, because planning uses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Family:
    """`architecture`: the `model_type` of config.json. `template`: text of the chat template; None: the
    models have none. `begin`: token that the tokenizer puts before a text; None: none. `end`: token that
    ends a reply."""

    architecture: str
    template: str | None = None
    begin: str | None = None
    end: str = END


def read_template(name: str) -> str:
    """The chat template in templates/ with this name."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


# A family by a regular expression that is searched in the name of a repository (without its owner),
# folder or file, regardless of case: the first that fits. Entries: architecture, template, begin, end.
SENTENCE = ("<s>", "</s>")
CHAT_ML = ("chatml", None, "<|im_end|>")
PATTERNS: tuple[tuple[str, tuple[str, str | None, str | None, str]], ...] = (
    (r"mixtral.*instruct", ("mixtral", "mistral", *SENTENCE)),
    (r"mixtral", ("mixtral", None, *SENTENCE)),
    (r"mistral.*instruct-v0\.3", ("mistral", "mistral-v3", *SENTENCE)),
    (r"mistral.*instruct", ("mistral", "mistral", *SENTENCE)),
    (r"mistral-7b", ("mistral", None, *SENTENCE)),
    (r"llama-3.*instruct", ("llama", "llama-3", "<|begin_of_text|>", "<|eot_id|>")),
    (r"llama-3", ("llama", None, "<|begin_of_text|>", "<|end_of_text|>")),
    (r"llama-2.*chat", ("llama", "llama-2", *SENTENCE)),
    (r"llama-2|llama-\d+b|(med)?alpaca", ("llama", None, *SENTENCE)),
    (r"smollm2.*instruct", ("llama", *CHAT_ML)),
    (r"smollm2", ("llama", None, None, END)),
    (r"qwen3-\d+(\.\d+)?b", ("qwen3", *CHAT_ML)),
    (r"qwen2.*instruct", ("qwen2", *CHAT_ML)),
    (r"qwen2", ("qwen2", None, None, END)),
    (r"pythia|gpt-neox", ("gpt_neox", None, None, END)),
    (r"gpt-j", ("gptj", None, None, END)),
    (r"mpt-.*chat", ("mpt", *CHAT_ML)),
    (r"mpt-", ("mpt", None, None, END)),
    (r"gpt2", ("gpt2", None, None, END)),
    (r"phi-3", ("phi3", "phi-3", None, "<|end|>")),
    (r"phi-[12]", ("phi", None, None, END)),
    (r"gemma-2-.*it", ("gemma2", "gemma", "<bos>", "<end_of_turn>")),
    (r"gemma-2-", ("gemma2", None, "<bos>", "<eos>")),
    (r"gemma-.*it", ("gemma", "gemma", "<bos>", "<end_of_turn>")),
    (r"gemma-", ("gemma", None, "<bos>", "<eos>")),
    (r"falcon-\d", ("falcon", None, None, END)),
    (r"bloom", ("bloom", None, None, "</s>")),
)


def family_of_name(name: str) -> Family | None:
    """The family that a repository, folder or file belongs to, by its name; None if it is not known."""
    for pattern, (architecture, template, begin, end) in PATTERNS:
        if re.search(pattern, name.rpartition("/")[2], re.IGNORECASE):
            text = None if template is None else read_template(template)
            return Family(architecture, text, begin, end)
    return None


def chat_family(architecture: str) -> Family:
    """A family with this architecture whose models have a chat template, a common one."""
    name, begin, end = CHAT_ML
    return Family(architecture, read_template(name), begin, end)


def family_of_folder(folder: Path) -> Family:
    """The family of the model in `folder`, by its config.json and its tokenizer's files.

    Raises UserError if they cannot be read.
    """
    architecture = _json(folder / "config.json").get("model_type")
    if not isinstance(architecture, str):
        raise UserError(f"{folder / 'config.json'}: it has no model_type")
    path = folder / "tokenizer_config.json"
    tokenizer = _json(path) if path.is_file() else {}
    begin, end = (_token(tokenizer.get(key)) for key in ("bos_token", "eos_token"))
    template = tokenizer.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, Mapping)}
        template = named.get("default")
    own = folder / "chat_template.jinja"
    if own.is_file():
        template = own.read_text(encoding="utf-8")
    begins = tokenizer.get("add_bos_token", False) is True
    text = template if isinstance(template, str) else None
    return Family(architecture, text, begin if begins else None, end or END)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: it cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: it is not a mapping")
    return found


def _token(value: Any) -> str | None:
    """A token as tokenizer_config.json has it: its text, or a mapping with its text."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) and text else None
