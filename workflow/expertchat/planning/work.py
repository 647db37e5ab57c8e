"""What a job computes: how many tokens each of its models reads, draws and is trained on.

The numbers follow from the settings alone, with replies as long as they may be. What no setting says,
such as the length of a user's conversations, is assumed below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.pipeline.recipes import Recipe
from expertchat.splits import TEST

CHARACTERS = 4  # of English text per token
MARKUP = 8  # tokens of a chat template around a message
SYSTEM, QUESTION, SHOT, RATING = 60, 120, 130, 250  # tokens of a topic, a question, and its solution
MMLU_QUESTIONS = {"test": 14_042, "val": 1_531}
MMLU_SUBJECTS = 57
CONVERSATION = 200  # tokens of a conversation of a data set
UNLIMITED = 10_000  # records of a data set without a limit
TRIES = 2  # texts that are written per topic that is kept


@dataclass(frozen=True)
class Work:
    """What a job does with one model.

    `rows`: number of texts that are drawn, 0 if none are. `longest`: tokens of the longest text, and
    `prompt`: those before what is drawn. `read`, `drawn`, `trained`: tokens in all.
    """

    rows: int = 0
    longest: int = 0
    prompt: int = 0
    read: int = 0
    drawn: int = 0
    trained: int = 0


Recipes = Mapping[str, Recipe]  # by reference: those of a plan, or all that a store has
Works = dict[str, Work]  # by the name of the model in the recipe


def works_of(recipes: Recipes, recipe: Recipe) -> Works:
    """What the job of a recipe does with each of its models; empty if it has none."""
    function = STAGES.get(recipe.stage)
    models = recipe.settings.get("load", {})
    if function is None or not models:
        return {}
    work = function(recipes, recipe)
    return dict.fromkeys(models, work)


def tokens(text: str) -> int:
    return len(text) // CHARACTERS + MARKUP


def topic_numbers(recipes: Recipes, recipe: Recipe) -> tuple[int, int]:
    """(all topics, those that are held out) of an artifact of stage topics."""
    settings = recipe.settings
    subjects, held_out = settings["taxonomy"]["groups"], settings["taxonomy"]["held_out"]
    each = settings["section"]["per_subject"]
    file = recipe.runtime.get("files", {}).get("file")
    if file is not None and settings["section"]["file"]["mode"] == "replace":
        lines = sum(1 for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
        share = len(held_out) / max(1, len(subjects))
        return lines, round(share * lines)
    return each * len(subjects), each * len(held_out)


def topics(recipes: Recipes, recipe: Recipe) -> Work:
    section = recipe.settings["section"]
    wanted, _ = topic_numbers(recipes, recipe)
    drawn = section["decoding"]["max_new_tokens"]
    texts = wanted * TRIES * (section["gate"]["best_of"] if section["gate"] else 1)
    prompt = sum(map(tokens, recipe.settings["prompts"].values())) + 20 * section["max_taken"]
    authors = len(recipe.settings["load"])
    return Work(texts, prompt + drawn, prompt, texts * prompt // authors, texts * drawn // authors)


def turn_tokens(decoding: Mapping[str, Any]) -> int:
    """The most tokens of a turn, with what a chat template puts around it."""
    return decoding["max_new_tokens"] + decoding["grace_tokens"] + MARKUP


def dialogue_prompt(prompts: Mapping[str, str], turns: int, turn: int) -> int:
    """Tokens of a dialogue's instructions and of its first `turns` turns of `turn` tokens each."""
    return sum(map(tokens, prompts.values())) + SYSTEM + turns * turn


def dialogue_number(recipes: Recipes, recipe: Recipe) -> int:
    """Number of dialogues of an artifact of stage dialogues."""
    if "topics" not in recipe.inputs:  # the user's own
        return UNLIMITED
    settings = recipe.settings
    every, held_out = topic_numbers(recipes, _input(recipes, recipe, "topics"))
    wanted = held_out if settings["held_out_only"] else every
    return -(-wanted * settings["section"]["seeds_per_topic"] // settings["shard"][1])


def dialogues(recipes: Recipes, recipe: Recipe) -> Work:
    section, prompts = recipe.settings["section"], recipe.settings["prompts"]
    number, models = dialogue_number(recipes, recipe), len(recipe.settings["load"])
    turn, turns = turn_tokens(section["decoding"]), section["turns"]
    prompt = dialogue_prompt(prompts, turns - 1, turn)
    several = 0 if recipe.settings["held_out_only"] else len(section["candidate_turns"])
    drawn = number * turn * (turns + several * section["candidates"]) // models
    return Work(number, prompt + turn, prompt, number * (prompt + turn), drawn)


def anchors(recipes: Recipes, recipe: Recipe) -> Work:
    settings = recipe.settings
    texts = settings["anchors"]
    each = max(sum(tokens(turn["text"]) for turn in text["turns"]) for text in texts)
    longest = each + tokens(settings["prompt"])
    categories = len(settings["rubric"]["categories"])
    return Work(longest=longest, read=len(texts) * (longest + categories * RATING))


def ratings(recipes: Recipes, recipe: Recipe) -> Work:
    settings = recipe.settings
    talk = _input(recipes, recipe, "dialogues")
    number, section = dialogue_number(recipes, talk), talk.settings.get("section")
    categories = len(settings["rubric"]["categories"]) * settings["section"]["repeats"]
    orders = 2 if settings["section"]["orders"] == "both" else 1
    if section is None:
        longest, items = CONVERSATION + tokens(settings["prompt"]), number
    else:
        turn = turn_tokens(section["decoding"])
        longest = dialogue_prompt({"": settings["prompt"]}, section["turns"], turn)
        candidates = 0 if talk.settings["held_out_only"] else section["candidates"]
        items = number * (1 + section["turns"] // 2 + len(section["candidate_turns"]) * candidates // 2)
    return Work(longest=longest, read=orders * items * (longest // 2 + categories * RATING // 5))


def training_context(recipes: Recipes, recipe: Recipe) -> tuple[int, int, int, int]:
    """Of a job that learns from dialogues or preferences: (contexts, tokens of the longest one and of a
    reply, replies to a context)."""
    if "preferences" in recipe.inputs:
        preferences = _input(recipes, recipe, "preferences")
        limits = [source["limit"] or UNLIMITED for source in preferences.settings["sources"]]
        words = preferences.settings["max_words"]
        length = words * 3 // 2 if words else CONVERSATION
        return sum(limits), length, length // 2, 2
    talks = [recipes[reference] for reference in recipe.inputs["dialogues"]]
    section = talks[0].settings["section"]
    turns, turn = section["candidate_turns"], turn_tokens(section["decoding"])
    number = sum(dialogue_number(recipes, talk) for talk in talks) * len(turns) // 2
    prompt = dialogue_prompt(recipe.settings["prompts"], max(turns, default=0), turn)
    return number, prompt, turn, section["candidates"]


def rewards(recipes: Recipes, recipe: Recipe) -> Work:
    section = recipe.settings["section"]
    contexts, prompt, reply, replies = training_context(recipes, recipe)
    prompt = min(prompt, section["max_length"] - reply)
    longest = prompt + replies * reply
    share = 0.5 if recipe.settings.get("split") else 0.8  # of the data: what is not held out
    passes = section["folds"] * section["epochs"] * section["ensemble"]
    trained = round(share * contexts * longest * passes)
    return Work(longest=longest, trained=trained, read=round(contexts * longest * section["ensemble"]))


def policies(recipes: Recipes, recipe: Recipe) -> Work:
    section, decoding = recipe.settings["section"], recipe.settings["decoding"]
    _, prompt, _, _ = training_context(recipes, recipe)
    reply = decoding["max_new_tokens"] + 1
    replies = section["steps"] * section["batch_size"]
    longest = prompt + reply
    return Work(
        rows=section["batch_size"],
        longest=longest,
        prompt=prompt,
        read=3 * replies * longest + replies * prompt,
        drawn=replies * reply,
        trained=section["epochs"] * replies * longest,
    )


def replies(recipes: Recipes, recipe: Recipe) -> Work:
    settings = recipe.settings
    contexts, prompt, _, _ = training_context(recipes, recipe)
    contexts = round(contexts * 0.2)
    reply = turn_tokens(settings["decoding"])
    number = contexts * settings["section"]["per_context"]
    return Work(number, prompt + reply, prompt, contexts * prompt, number * reply)


def judgements(recipes: Recipes, recipe: Recipe) -> Work:
    written = [recipes[reference] for reference in recipe.inputs["replies"]]
    one = replies(recipes, written[0])
    reply = one.longest - one.prompt
    longest = one.prompt + 2 * reply + tokens(recipe.settings.get("prompt", ""))
    pairs = len(written) * (len(written) - 1)
    return Work(longest=longest, read=pairs * one.rows * longest)


def answers(recipes: Recipes, recipe: Recipe) -> Work:
    section, split = recipe.settings["section"], recipe.settings["split"]
    number = MMLU_QUESTIONS.get(split, MMLU_QUESTIONS[TEST])
    if section["limit"] is not None:
        number = min(number, MMLU_SUBJECTS * section["limit"])
    number = -(-number // recipe.settings["shard"][1])
    own = QUESTION * (4 if section["formulation"] == "cloze" else 1)
    shots = section["shots"] * SHOT
    return Work(longest=shots + QUESTION, read=number * own + MMLU_SUBJECTS * shots)


def sft(recipes: Recipes, recipe: Recipe) -> Work:
    section = recipe.settings["section"]
    sources = _input(recipes, recipe, "instructions").settings["sources"]
    number = sum(source["limit"] or UNLIMITED for source in sources)
    each = min(CONVERSATION, section["max_length"])
    return Work(longest=section["max_length"], trained=round(number * each * section["epochs"]))


def _input(recipes: Recipes, recipe: Recipe, name: str) -> Recipe:
    reference = recipe.inputs[name]
    return recipes[reference if isinstance(reference, str) else reference[0]]


STAGES: dict[str, Callable[[Recipes, Recipe], Work]] = {
    "sft": sft,
    "topics": topics,
    "anchors": anchors,
    "dialogues": dialogues,
    "ratings": ratings,
    "rewards": rewards,
    "policies": policies,
    "replies": replies,
    "judgements": judgements,
    "answers": answers,
}
