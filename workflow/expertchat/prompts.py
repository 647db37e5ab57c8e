"""Prompt templates: Jinja files with all the text that is sent to the models.

The text of the templates is part of a stage's settings, so a changed word leads to new results. A
template for topics or ratings may have two blocks beside the user's text: `{% block system %}` with the
system text, and `{% block reply %}` with the beginning of the model's own reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from expertchat.chat import Message
from expertchat.errors import UserError
from expertchat.foreign import read_text
from expertchat.seeds import seed_of

NAMES = ("topic", "opening", "rating")  # in addition to one template per role
GATE = "topic_gate"  # needed only if topics.gate asks for an answer
JUDGE = "judge"  # needed only if a model judges replies

TOPIC_VALUES = frozenset({"topic", "subject", "audience", "kind"})
VALUES = {  # the names that a template may use; roles may use those of `opening`
    "topic": TOPIC_VALUES - {"topic"} | {"taken"},
    GATE: frozenset({"topic", "subject"}),
    "opening": TOPIC_VALUES | {"note"},
    JUDGE: frozenset({"turns", "replies", "fence"}),
    "rating": frozenset(
        {"topic", "turns", "rated", "scope", "category", "description", "low", "high", "worst"}
        | {"best", "fence"}
    ),
}
MOST_BYTES = 1 << 20  # of a template
MOST_REPEATED, LARGEST_EXPONENT = 1_000_000, 64
BLOCKS = ("system", "reply")  # parts of a template beside the user's text
WITH_BLOCKS = (
    "topic",
    GATE,
    "rating",
    JUDGE,
)  # templates that may have them; a role's template is a system text


class _Environment(SandboxedEnvironment):
    """Templates in which a product cannot take all memory, as "x" * 10 ** 10 would."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context, operator: str, left, right):
        if operator == "**" and isinstance(right, int) and right > LARGEST_EXPONENT:
            raise SecurityError(f"an exponent above {LARGEST_EXPONENT}")
        for items, times in ((left, right), (right, left)):
            repeats = isinstance(items, (str, list, tuple)) and isinstance(times, int)
            if repeats and len(items) * times > MOST_REPEATED:
                raise SecurityError(f"a text or list of more than {MOST_REPEATED:,} items")
        return super().call_binop(context, operator, left, right)


_environment = _Environment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


def unused_code(texts: Sequence[str], *drawn_for: object) -> str:
    """A code of 8 hexadecimal digits that occurs in none of the texts, drawn for the given names.

    A model cannot predict the code, so a text that it wrote cannot forge the end of the data.
    """
    for attempt in range(1_000):
        code = f"{seed_of(*drawn_for, attempt):015x}"[-8:]
        if not any(code in text for text in texts):
            return code
    raise ValueError("no code was found that does not occur in the text")


def read_prompts(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """{name: text} of the files `<name>.jinja` in the folder; None: of all of them.

    Raises UserError if one of them cannot be read.
    """
    every = (path.stem for path in sorted(folder.glob("*.jinja")))
    return {name: read_prompt(folder / f"{name}.jinja") for name in (every if names is None else names)}


def read_prompt(path: Path, hint: str = "") -> str:
    """The text of a template. Raises UserError, with `hint`, if it cannot be read."""
    return read_text(path, hint, MOST_BYTES)


def template_faults(path: Path, allowed: Set[str]) -> Iterator[str]:
    """Problems of a template with file and line: its syntax, its blocks, and names not `allowed`."""
    try:
        text = read_prompt(path)
    except UserError as error:
        yield str(error)
        return
    try:
        tree = _environment.parse(text)
        names = meta.find_undeclared_variables(tree)
    except TemplateSyntaxError as error:
        yield f"{path}, line {error.lineno}: {error.message}"
        return
    except (RecursionError, SyntaxError):  # SyntaxError: Python's own limit
        yield f"{path}: its tags are nested too deeply"
        return
    for other in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        yield f"{path}, line {other.lineno}: a prompt cannot use other files; put their text here"
    for name in sorted(names - allowed):
        found = re.search(rf"\b{re.escape(name)}\b", text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        yield f"{path}, line {line}: unknown name {name!r}; known: {', '.join(sorted(allowed))}"
    known = BLOCKS if path.stem in WITH_BLOCKS else ()
    for block in tree.find_all(nodes.Block):
        if block.name not in known:
            yield (
                f"{path}, line {block.lineno}: unknown block {block.name!r}; "
                f"known: {', '.join(known) or 'none in this prompt'}"
            )
        elif block not in tree.body:
            yield (
                f"{path}, line {block.lineno}: block {block.name!r} stands inside another tag; put it "
                "outside, and conditions inside the block"
            )


def read_chat_template(path: Path, where: str) -> str:
    """The text of a chat template file. `where` is the setting that names the file.

    The template is not parsed here, because transformers supports more tags than Jinja does. Raises
    UserError if the file cannot be read.
    """
    try:
        return read_prompt(path, "use plain, or the path of a Jinja file")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def fill(template: str, **values: object) -> str:
    """The user's text: `template` without its blocks, rendered and stripped of outer white space.

    Raises jinja2.UndefinedError if the template uses a name that `values` does not contain.
    """
    return _rendered(template, values)[0].strip()


def messages(template: str, **values: object) -> list[Message]:
    """The messages of a template: its system text, the user's text, and the beginning of the reply.

    A part that is missing or blank is left out. The beginning of the reply is a last message of role
    assistant, which `chat.render` leaves open. White space at its end is kept if it is not a line break:
    "Number: " means that a space stands before the number.
    """
    user, blocks = _rendered(template, values)
    parts = [
        ("system", blocks["system"].strip()),
        ("user", user.strip()),
        ("assistant", blocks["reply"].lstrip().rstrip("\r\n")),
    ]
    return [{"role": role, "content": text} for role, text in parts if text.strip() or role == "user"]


def error_line(template: str, error: Exception) -> int | None:
    """The line of the template at which rendering it raised the error; None if it is unknown."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = _compiled(template).get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _rendered(template: str, values: Mapping[str, object]) -> tuple[str, dict[str, str]]:
    """(the text outside the blocks, {name: text} of `BLOCKS`, empty for those that are missing)."""
    compiled = _compiled(template)
    context = compiled.new_context(dict(values))
    blocks = {name: "" for name in BLOCKS}
    for name in BLOCKS:
        if name in compiled.blocks:
            blocks[name] = "".join(compiled.blocks[name](context))
            context.blocks[name] = [_empty]
    return "".join(compiled.root_render_func(context)), blocks


def _empty(context: Context) -> Iterator[str]:
    """A block that renders to nothing."""
    return iter(())


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    """The compiled template, cached because compiling takes a hundred times as long as rendering."""
    return _environment.from_string(template)


def rating_values(
    *,
    topic: str,
    turns: list[tuple[str, str]],
    rated: str,
    scope: str,
    category: str,
    description: str,
    low: int,
    high: int,
    worst: str = "",
    best: str = "",
    fence: str = "",
) -> dict[str, object]:
    """The values of a template that asks a rater to score one speaker in one category.

    `turns` are (label, text) with neutral labels such as "A" and "B"; `rated` is the label of the
    speaker to judge. `scope` is "dialogue" (all of that speaker's turns) or "reply" (the last turn
    only). `worst` and `best` describe what deserves the scores `low` and `high`. `fence` is a code that
    occurs in none of the texts: the template uses it to mark where each turn begins, and a model that
    wrote a turn cannot forge it.
    """
    return {
        "topic": topic,
        "turns": [{"label": label, "text": text} for label, text in turns],
        "rated": rated,
        "scope": scope,
        "category": category,
        "description": description,
        "low": low,
        "high": high,
        "worst": worst,
        "best": best,
        "fence": fence,
    }
