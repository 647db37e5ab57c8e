"""The families of inputs: what is valid, how it is made bad, and what a user does with it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from expertchat import cli, prompts
from expertchat.dialogues.transcripts import flag_turns, read_transcripts
from expertchat.instructions.mixing import mix_instructions
from expertchat.pipeline.prompt_trials import SAMPLES
from expertchat.preferences.mixing import mix_preferences
from expertchat.questions.sources import copy_questions, describe
from expertchat.records import write_json, write_records
from expertchat.settings.experiment import Experiment
from expertchat.topics.files import read_topic_file
from faults import answering
from faults.mutations import ODD_TEXTS, Tree, damaged
from faults.trial import Case
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
SERVER = {"source": "server", "load": {"server": {"url_env": "BAD_URL", "model": "m"}}}
BASE = {"name": "bad", "rounds": 0, "models": {"ada": SERVER, "ben": SERVER}}
TALK = BASE | {
    "pairs": [["ada", "ben"]],
    "topics": {"subjects": ["law", "baking"], "held_out_subjects": 1},
}
KEYS = "|".join(["settings", *Experiment.model_fields])


@dataclass(frozen=True)
class Family:
    """`inputs` draws cases; `use` does with a case's folder what a user does; `names` is a regular
    expression for what each message about such an input has: the file, the key or the server."""

    inputs: st.SearchStrategy[Case]
    use: Callable[[Path], None]
    names: str


def plan(folder: Path, config: dict | None = None) -> None:
    """`expertchat plan` on the file of settings, and what snakemake writes before the first job.

    It changes this process, which is the trial's own.
    """
    path = folder / "settings.yaml"
    if config is not None:
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
    planned, read = [], cli.read_plan
    cli.read_plan = lambda arguments: planned.append(read(arguments)) or planned[-1]
    sys.argv = ["expertchat", "plan", "--configfile", str(path), "--store", str(folder / "results")]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
    planned[0].write_recipes()
    planned[0].write_view()


def json_text(tree: Tree) -> str:
    return json.dumps(tree, ensure_ascii=False, default=str)


def yaml_text(tree: Tree) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def json_lines(tree: Tree) -> str:
    rows = tree if isinstance(tree, list) else [tree]
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def csv_text(tree: Tree) -> str:
    """Rows of cells; of objects, below a header with the keys of the first."""
    rows = (
        [row if isinstance(row, (list, dict)) else [row] for row in tree]
        if isinstance(tree, list)
        else []
    )
    if rows and isinstance(rows[0], dict):
        rows = [list(rows[0]), *(list(row.values()) if isinstance(row, dict) else row for row in rows)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", escapechar="\\").writerows(rows)
    return text.getvalue()


def plain_text(tree: Tree) -> str:
    return tree if isinstance(tree, str) else json_text(tree)


def one_file(name: str, strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[Case]:
    return strategy.map(lambda data: {name: data})


# settings

CONFIGS = [
    yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    for path in ("config/config.yaml", "config/presets/laptop.yaml", "config/presets/hub-pair.yaml")
]
OTHER = TALK | {
    "mmlu": {
        "questions": {"source": "hub", "repository": "a/b", "revision": "c"},
        "published": {"ada": 0.5},
    },
    "models": {
        "ada": {"source": "server", "load": {"server": {"url_env": "A", "body": {"top_k": -1}}}},
        "ben": {
            "source": "hub",
            "repository": "a/b",
            "revision": "c",
            "load": {"server": {"command": "x {port}"}},
        },
    },
    "ratings": {"rubric": "config/rubrics/expert.yaml", "repeats": 1},
    "dialogues": {"decoding": {"temperature": 0.7, "stop": ["END"]}, "turns": 4},
}
settings = one_file("settings.yaml", damaged([*CONFIGS, OTHER, TALK], yaml_text))


# topics

TOPICS = [
    {
        "topic": f"Is rule {i} of bread fair?",
        "subject": s,
        "kind": "a myth",
        "note": "It is.",
        "split": p,
    }
    for i, (s, p) in enumerate(
        [("law", "train"), ("law", "train"), ("baking", "held_out"), ("art", "train")]
    )
]
TEXT_TOPICS = "\n".join(f"Is rule {i} of bread fair to bakers?" for i in range(8))
topics = st.one_of(
    one_file("topics.jsonl", damaged([TOPICS, TOPICS[:3]], json_lines)),
    one_file("topics.csv", damaged([TOPICS, TOPICS[:3]], csv_text)),
    one_file("topics.txt", damaged([TEXT_TOPICS], plain_text)),
)


def use_topics(folder: Path) -> None:
    (path,) = folder.iterdir()
    plan(
        folder,
        TALK | {"topics": {"file": {"path": str(path), "mode": "replace"}, "held_out_subjects": 1}},
    )
    write_records(folder / "out.jsonl", map(asdict, read_topic_file(path)))


# transcripts


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


TURNS = ("Hi.", "Hello. What do you bake?", "Rye bread.", "Why rye?")
RECORD = {
    "dialogue_id": "bread/s0",
    "topic": "bread",
    "split": "train",
    "speakers": ["mixtral", "llama"],
    "models": {"mixtral": "m", "llama": "l"},
    "turns": [
        {"speaker": ("mixtral", "llama")[i % 2], "text": text, "tokens": 2, "finish_reason": "stop"}
        for i, text in enumerate(TURNS)
    ],
    "brief": {"llama": "You bake."},
    "disagreements": [{"turn": 0, "speaker": "llama", "said": "a", "heard": "b"}],
}
SHARED = {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes?"}]}
MESSAGES = {"messages": said(*TURNS), "topic": "bread", "model": "llama", "brief": "You bake."}
CONVERSATIONS = [said(*TURNS), MESSAGES, SHARED, RECORD]
SIDES = [said("Begin.", *TURNS)[1:], [{"role": "user", "content": "Begin."}, *said("", *TURNS)[1:]]]
TALK_TEXT = (
    "Topic: Do bakers need scales?\nSubject: baking\nSplit: train\nSpeakers: Anna, Ben\n\n"
    "Anna: I weigh everything. A cup varies.\n\nBen: No.\nMost recipes forgive that.\n\nAnna: No.\n"
)
transcripts = st.one_of(
    one_file("talk.txt", damaged([TALK_TEXT, "Anna: Hi.\nBen: Hello.\nAnna: Bye."], plain_text)),
    one_file("talk.json", damaged([*CONVERSATIONS, CONVERSATIONS], json_text)),
    one_file("talk.jsonl", damaged([CONVERSATIONS, CONVERSATIONS[1:]], json_lines)),
    damaged([said("x", *TURNS)[1:]], json_text).map(
        lambda data: {"talk.a.json": json_text(said(*TURNS)).encode(), "talk.b.json": data}
    ),
)


def use_transcripts(folder: Path) -> None:
    config = {key: value for key, value in BASE.items() if key != "pairs"}
    given = folder / "given"
    given.mkdir()
    for path in sorted(p for p in folder.iterdir() if p != given):
        path.rename(given / path.name)
    plan(folder, config | {"dialogues": {"transcripts": str(given)}})
    records = read_transcripts(given)
    flag_turns(records)
    write_records(folder / "out.jsonl", records)


# data sets to learn from

LEARNER = {"name": "bad", "models": {"ada": {"source": "hub", "repository": "a/b", "revision": "c"}}}
TEXTS = [(f"Is rye {i} dense?", "Yes.", f"Why {i}?", "It has little gluten.") for i in range(6)]
HH_PAIRS = [
    {
        "chosen": f"\n\nHuman: {a}\n\nAssistant: {b}\n\nHuman: {c}\n\nAssistant: {d}",
        "rejected": f"\n\nHuman: {a}\n\nAssistant: {b}\n\nHuman: {c}\n\nAssistant: No.",
    }
    for a, b, c, d in TEXTS
]
PAIRS = [{"chosen": said(*texts), "rejected": said(*texts[:-1], "No.")} for texts in TEXTS]
preferences = st.one_of(
    one_file("pairs.jsonl", damaged([HH_PAIRS, HH_PAIRS[:4]], json_lines)),
    one_file("pairs.json", damaged([PAIRS, PAIRS[1:]], json_text)),
)
ALPACA = [{"instruction": a, "input": b, "output": d} for a, b, _, d in TEXTS]
instructions = st.one_of(
    one_file("examples.jsonl", damaged([ALPACA, ALPACA[:4]], json_lines)),
    one_file("examples.json", damaged([[{"messages": said(*texts)} for texts in TEXTS]], json_text)),
)


def use_preferences(folder: Path) -> None:
    (path,) = folder.iterdir()
    source = {"source": "file", "path": str(path), "limit": None}
    source["format"] = "hh-rlhf" if path.suffix == ".jsonl" else "messages"
    plan(folder, LEARNER | {"preferences": {"data": [source]}})
    (folder / "out").mkdir()
    with redirect_stderr(io.StringIO()):  # the counts, as the message is what is looked at
        mix_preferences([source], [path], {"held_out": 0.3, "judge": 0.0}, 4, 0, folder / "out")


def use_instructions(folder: Path) -> None:
    (path,) = folder.iterdir()
    source = {"source": "file", "path": str(path), "limit": None, "answers": "both"}
    source["format"] = "alpaca" if path.suffix == ".jsonl" else "messages"
    plan(folder, LEARNER | {"rounds": 0, "sft": {"instructions": [source | {"answers": "human"}]}})
    (folder / "out").mkdir()
    with redirect_stderr(io.StringIO()):
        mix_instructions([source], [path], 0.3, 0, folder / "out")


# MMLU's questions


def rows(split: str, count: int) -> list[list[str]]:
    return [
        [f"{split} {i}, so?", "None", "1", "NA", f'He said "{i}"', "ABCD"[i % 4]] for i in range(count)
    ]


QUESTIONS = {
    f"{split}/{subject}_{split}.csv": csv_text(rows(split, count)).encode()
    for split, count in (("dev", 2), ("val", 8), ("test", 6))
    for subject in ("law", "art")
}
questions = st.builds(
    lambda name, data: QUESTIONS | {name: data},
    st.sampled_from(sorted(QUESTIONS)),
    damaged([rows("dev", 3), rows("val", 8)], csv_text),
)


def use_questions(folder: Path) -> None:
    plan(folder, BASE | {"mmlu": {"shots": 2, "questions": {"source": "folder", "path": str(folder)}}})
    copy_questions(folder, [], folder / "out")
    write_json(folder / "out/questions.json", describe(folder / "out"))


# prompts

SNIPPETS = (
    *ODD_TEXTS,
    *(
        "{{ topik }}",
        "{{ topic.x }}",
        "{{ topic / 0 }}",
        "{{ topic",
        "{% if topic %}",
        "{% endif %}",
        "{#",
    ),
    *(
        "{% raw %}",
        "{% block system %}",
        "{% block reply %}{% endblock %}",
        "{% include 'x' %}",
        "{{ self }}",
    ),
    *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ ''.__class__ }}", "{{ cycler.__init__ }}"),
    *("{{ 'x' * 10 ** 9 }}", "{{ 9 ** 999 }}", "{{ (((9 ** 64) ** 64) ** 64) ** 64 }}", "{{ 1 / 0 }}"),
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    *("{{ 'x'.center(10 ** 10) }}", "{{ '%09999999999d' % 1 }}", "{{ '{:>9999999999}'.format(1) }}"),
    "{{ ('x' * 10 ** 6).replace('x', 'x' * 10 ** 5) }}",
    "{{ ('a' * 10 ** 6) | urlize }}{{ ('a ' * 10 ** 5) | wordwrap(1) }}",
    "{{ ('<' * 10 ** 6) | striptags }}{{ ('a@' * 10 ** 5) | urlize }}",
    *("{{ 'x\n' | indent(10 ** 10) }}", "{{ lipsum(10 ** 9) }}", "{{ [1] | batch(10 ** 9, 1) | list }}"),
    *("{{ '\\ud800' }}", "{{ '\\N{DIGIT ONE}' }}", "{{ '\\d' }}", "{{ 9e999 | int }}", "{{ 1e999 }}"),
    *("{{ " + "(" * 3_000 + " }}", "{{ " + "-" * 3_000 + "1 }}", "{{ " + "1+" * 9_000 + "1 }}"),
    *("{% if 1 %}" * 300, "{{ topic" + "|trim" * 3_000 + " }}", "{{ [" + "0," * 50_000 + "] }}"),
    *(
        "{% set topic = 1 %}",
        "{% set x = namespace() %}{% set x.y = 1 %}",
        "{{ caller() }}",
        "{{ super() }}",
    ),
    *(
        "{{ topic | nofilter }}",
        "{{ topic is notest }}",
        "{{ 9999999999999999999 * 'a' }}",
        "{% break %}",
    ),
    *(
        "{% call x() %}{% endcall %}",
        "{% autoescape true %}{{ topic }}{% endautoescape %}",
        "{{ loop.x }}",
    ),
)
PROMPTS = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "config/prompts").glob("*.jinja")
}
CHANGED = ("speaker.jinja", "rating.jinja", "topic.jinja", "opening.jinja")
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim }}\n"
    "{% endfor %}\n{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
prompt_files = st.one_of(
    *(one_file(name, damaged([PROMPTS[name]], plain_text, SNIPPETS)) for name in CHANGED),
    one_file("chat.jinja", damaged([CHAT], plain_text, SNIPPETS)),
)


def use_prompts(folder: Path) -> None:
    (given,) = folder.iterdir()
    (folder / "prompts").mkdir()
    for name in PROMPTS:
        shutil.copy(ROOT / "config/prompts" / name, folder / "prompts" / name)
    config = TALK | {"prompts": str(folder / "prompts")}
    if given.name == "chat.jinja":
        hub = {
            "source": "hub",
            "repository": "a/b",
            "revision": "c",
            "load": {"chat_template": str(given)},
        }
        plan(folder, config | {"models": {"ada": hub, "ben": hub}})
        return
    given.rename(folder / "prompts" / given.name)
    plan(folder, config)
    if given.name not in CHANGED:  # a prompt that nothing uses
        return
    values = {key: SAMPLES[key] for key in prompts.VALUES.get(given.stem, prompts.VALUES["opening"])}
    messages = prompts.messages((folder / "prompts" / given.name).read_text(encoding="utf-8"), **values)
    write_records(folder / "out.jsonl", messages)


# answers of servers

answers = st.one_of(
    *(
        one_file(f"{kind}.http", damaged([answering.VALID[kind]], json_text).map(answering.as_response))
        for kind in answering.VALID
    ),
    *(
        one_file(f"{kind}.http", answering.damaged_heads(json_text(answering.VALID[kind]).encode()))
        for kind in answering.VALID
    ),
)


FAMILIES = {
    "settings": Family(
        settings, plan, rf"settings\.yaml|^  (?:{KEYS})\b|unknown key|the key |File name too long"
    ),
    "topics": Family(topics, use_topics, rf"topics\.(?:jsonl|csv|txt)|^  (?:{KEYS})\."),
    "transcripts": Family(transcripts, use_transcripts, r"talk\.|/given:"),
    "preferences": Family(preferences, use_preferences, r"pairs\.json|preferences"),
    "instructions": Family(instructions, use_instructions, r"examples\.json|sft\."),
    "questions": Family(questions, use_questions, r"_(?:dev|val|test)\.csv|mmlu\.\w+"),
    "answers": Family(answers, answering.use, r"the server at \$BAD_URL"),
    "prompts": Family(prompt_files, use_prompts, r"\b\w+\.jinja\b"),
}
os.environ.setdefault("BAD_URL", "http://127.0.0.1:9/v1")
