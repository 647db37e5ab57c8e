"""Each prompt and each chat template of the user is rendered once when an experiment is planned, with
values such as it will get, in a process of its own with limits of time and memory."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import TemplateSyntaxError

from expertchat import prompts
from expertchat.chat import Message
from expertchat.foreign import one_line
from expertchat.limits import apart

SECONDS = 5.0  # for one prompt; all others take milliseconds
MEMORY_BYTES = 1 << 30  # for one prompt
MOST_CHARACTERS = 1_000_000  # of a rendered prompt
SHOWN_CHARACTERS = 200  # of an error
SLOW = "look for a loop without an end"

TURN = {"label": "A", "text": "I weigh the flour."}
SAMPLES: dict[str, object] = {  # a value for each name in `prompts.VALUES`
    **dict.fromkeys(
        ("topic", "subject", "audience", "kind", "note", "category", "description"), "words"
    ),
    **dict.fromkeys(("worst", "best"), "words"),
    "taken": ["Does rye need more water than wheat?"],
    "turns": [TURN, TURN | {"label": "B"}],
    "replies": {"A": "I weigh the flour.", "B": "An hour."},
    "rated": "A",
    "scope": "dialogue",
    "low": 0,
    "high": 9,
    "fence": "#7f3a",
}
CONVERSATION: list[Message] = [
    {"role": "user", "content": "How long does dough rise?"},
    {"role": "assistant", "content": "An hour."},
    {"role": "user", "content": "Why?"},
]
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def prompt_faults(path: Path, name: str) -> list[str]:
    """What is wrong with the file at `path` for the prompt `name`: sentences with the file and, if it is
    known, the line."""
    allowed = prompts.VALUES.get(name, prompts.VALUES["opening"])
    values = {key: SAMPLES[key] for key in sorted(allowed)}

    def faults() -> list[str]:
        found = [*prompts.template_faults(path, allowed)]
        if found:
            return found
        text = prompts.read_prompt(path)
        return _rendering_faults(
            path,
            lambda: _contents(prompts.messages(text, **values)),
            lambda error: prompts.error_line(text, error),
        )

    return _tried(path, faults)


def chat_template_faults(path: Path) -> list[str]:
    """What is wrong with a file for `load.chat_template`, as sentences with the file.

    transformers renders it with a short conversation, as it will in jobs.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    def rendered() -> str:
        ((text,), _) = render_jinja_template(
            [CONVERSATION], chat_template=text_of_file, add_generation_prompt=True, **SPECIAL_TOKENS
        )
        return text

    text_of_file = prompts.read_prompt(path)
    return _tried(path, lambda: _rendering_faults(path, rendered, _line_of))


def is_slow(fault: str) -> bool:
    """Whether a fault took the whole time limit to find."""
    return SLOW in fault


def _contents(messages: Sequence[Message]) -> str:
    return "".join(message["content"] for message in messages)


def _line_of(error: Exception) -> int | None:
    """The line of the template in an error's traceback, which Jinja has written into it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<template>"]
    return lines[-1] if lines else None


def _rendering_faults(
    path: Path, rendered: Callable[[], str], line_of: Callable[[Exception], int | None]
) -> list[str]:
    """What goes wrong when a template is rendered; at most one sentence."""
    try:
        result = rendered()
        result.encode()
    except TemplateSyntaxError as error:
        return [f"{path}, line {error.lineno}: {one_line(str(error.message), SHOWN_CHARACTERS)}"]
    except MemoryError:
        raise
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        return [f"{path}: it is rendered to U+{code:04X}, half of a character"]
    except Exception as error:  # a template can raise anything
        words = one_line(f"{type(error).__name__}: {error}", SHOWN_CHARACTERS)
        line = line_of(error)
        return [f"{path}{f', line {line}' if line else ''}: it cannot be rendered: {words}"]
    if len(result) > MOST_CHARACTERS:
        limit = f"at most {MOST_CHARACTERS:,} are allowed"
        return [f"{path}: it is rendered to {len(result):,} characters; {limit}"]
    return []


def _tried(path: Path, faults: Callable[[], list[str]]) -> list[str]:
    """The faults, or a sentence if they are not found within the limits."""
    try:
        return apart(SECONDS, MEMORY_BYTES, faults)
    except TimeoutError:
        words = f"not rendered within {SECONDS:g} seconds: {SLOW}"
    except MemoryError:
        words = f"not rendered within {MEMORY_BYTES >> 20} MiB of memory: look for a text that grows"
    except RuntimeError as error:
        words = f"not rendered: {one_line(str(error), SHOWN_CHARACTERS)}"
    return [f"{path}: it is {words}"]
