"""Stage topics in the plan: what it reads, what makes it anew, and faults before any job starts."""

import json
import os
import subprocess
import sys

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import recipe_path, write_recipe
from expertchat.records import read_records


@pytest.fixture
def topics_recipe(root, default_config):
    """The recipe of stage topics where its settings are changed."""

    def recipe(**changes):
        config = {**default_config, "topics": default_config["topics"] | changes}
        plan = make_plan(read_experiment(config, root), root)
        (found,) = [recipe for recipe in plan.recipes.values() if recipe.stage == "topics"]
        return found

    return recipe


def write_file(folder, text="topic,subject,split\nRye bread,baking,train\nWet clay,pottery,held_out\n"):
    (folder / "mine.csv").write_text(text, encoding="utf-8")
    return {"path": str(folder / "mine.csv")}


def test_questions_are_read_only_to_decontaminate(topics_recipe):
    assert "questions" in topics_recipe(decontaminate=True).inputs
    assert "questions" not in topics_recipe(decontaminate=False).inputs


def test_a_changed_file_makes_topics_anew(topics_recipe, tmp_path):
    first = topics_recipe(file=write_file(tmp_path))
    assert topics_recipe(file=write_file(tmp_path)).id == first.id
    changed = "topic\nRye bread rolls\nWet clay\n"
    assert topics_recipe(file=write_file(tmp_path, changed)).id != first.id
    assert len(first.to_json()) < 2**16  # the file's topics are not in it


def test_a_file_that_replaces_all_loads_no_model(topics_recipe, tmp_path):
    recipe = topics_recipe(file=write_file(tmp_path) | {"mode": "replace"})
    assert "models" not in recipe.inputs and "load" not in recipe.settings
    assert recipe.settings["taxonomy"]["groups"] == {"baking": "", "pottery": ""}
    assert topics_recipe(file=write_file(tmp_path)).inputs["models"]


def test_an_encoder_counts_by_what_it_holds(topics_recipe, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"topics.embeddings.path: .*not an encoder: .* no \*"):
        topics_recipe(embeddings={"path": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"0")
    first = topics_recipe(embeddings={"path": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert topics_recipe(embeddings={"path": str(tmp_path)}).id != first.id


def test_a_gate_belongs_to_the_recipe_and_its_question_only_where_it_is_asked(topics_recipe, root):
    plain, gated = topics_recipe(), topics_recipe(gate={})
    assert gated.id != plain.id and gated.settings["prompts"].keys() == {"topic"}
    with pytest.raises(UserError, match=r"prompts: config/prompts/demo; there is no topic_gate.jinja"):
        topics_recipe(gate={"score": "answer"})
    config = {"subjects": ["law", "art"], "held_out_subjects": 1, "gate": {"score": "answer"}}
    (recipe,) = [
        recipe
        for recipe in make_plan(laptop_experiment(root, config), root).recipes.values()
        if recipe.stage == "topics"
    ]
    assert recipe.settings["prompts"].keys() == {"topic", "topic_gate"}


def laptop_experiment(root, topics):
    """An experiment with the prompts of real models."""
    load = {"server": {"url_env": "NO_URL", "model": "m"}}
    models = {"a": {"source": "server", "load": load}}
    config = {"name": "x", "rounds": 0, "models": models, "pairs": [["a", "a"]], "topics": topics}
    return read_experiment(config, root)


def test_a_server_cannot_tell_the_likelihood_of_a_text(root):
    with pytest.raises(UserError, match=r"topics.gate.score: likelihood; model a is behind a server"):
        laptop_experiment(root, {"subjects": ["law", "art"], "held_out_subjects": 1, "gate": {}})


def test_examples_count_by_what_their_file_holds(topics_recipe, tmp_path):
    def examples(text):
        (tmp_path / "shown.csv").write_text(text, encoding="utf-8")
        return {"path": str(tmp_path / "shown.csv"), "shown": 1}

    first = topics_recipe(examples=examples("topic,subject\nBail,law\nClay or sand,pottery\n"))
    second = topics_recipe(examples=examples("topic,subject\nBail,law\nClay or soil,pottery\n"))
    assert first.id != second.id and "Bail" not in first.to_json()
    with pytest.raises(UserError, match=r"topics.examples.shown: 1; .*shown.csv has topics of 1 subj"):
        topics_recipe(examples=examples("topic,subject\nBail,law\nSilk,weaving\n"))  # held out


def test_faults_are_told_with_the_key(topics_recipe, tmp_path):
    for changes, message in (
        ({"file": write_file(tmp_path, "topic\nx,y\n")}, "mine.csv, line 2: more cells"),
        ({"file": {"path": "none.txt"}}, "none.txt: No such file"),
        ({"subjects": "mmul"}, "topics.subjects: mmul; no such file"),
        ({"subjects": "mmlu"}, "topics.subjects: 'abstract algebra' and 56 more; the demo"),
        ({"subjects": 3}, "topics.subjects: 3; must be a list"),
        ({"contamination_words": 2}, "topics.contamination_words: 2; must be at least"),
    ):
        with pytest.raises(UserError) as caught:
            topics_recipe(**changes)
        assert message in str(caught.value)


def run(root, stage, recipe, store, check=True):
    """Runs a stage's script as the workflow does; its output."""
    write_recipe(store, recipe)
    script = root / f"workflow/scripts/{stage}.py"
    command = [sys.executable, str(script), str(recipe_path(store, recipe.reference))]
    environment = {**os.environ, "PYTHONPATH": str(root / "workflow")}
    done = subprocess.run(
        [*command, "--store", str(store)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode == 0) == check, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_job_takes_the_users_file_and_rejects_what_gives_a_question_away(
    root, default_config, tmp_path
):
    for split in ("dev", "test"):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        rows = 'Why does sourdough rise?,gas,salt,heat,luck,A\n"What is kept dry?",a,b,c,d,B\n'
        (tmp_path / f"mmlu/{split}/food_{split}.csv").write_text(rows, encoding="utf-8")
    text = (
        "topic,subject,split\nWhy does sourdough rise,baking,train\n"
        "Rye bread,baking,train\nWet clay,pottery,held_out\n"
    )
    config = default_config | {"rounds": 0}
    config["topics"] = {"file": write_file(tmp_path, text) | {"mode": "replace"}}
    questions = {"source": "folder", "path": str(tmp_path / "mmlu")}
    config["mmlu"] = {"shots": 1, "mixture": False, "questions": questions}
    plan = make_plan(read_experiment(config, root), root)
    recipes = {recipe.stage: recipe for recipe in plan.recipes.values()}
    run(root, "questions", recipes["questions"], tmp_path / "store")
    run(root, "topics", recipes["topics"], tmp_path / "store")
    made = tmp_path / "store" / recipes["topics"].reference
    assert [t["topic"] for t in read_records(made / "topics.jsonl")] == ["Rye bread", "Wet clay"]
    (rejected,) = read_records(made / "rejected.jsonl")
    assert (rejected["reason"], rejected["like"]) == ("contaminated", "Why does sourdough rise?")
    diversity = json.loads((made / "diversity.json").read_text(encoding="utf-8"))
    assert diversity["coverage"]["split"] == {"train": 1, "held_out": 1}

    write_file(tmp_path, text.replace("Rye", "Oat"))
    said = run(root, "topics", recipes["topics"], tmp_path / "other", check=False)
    assert "is not finished" in said or "no manifest.json" in said  # its inputs come first
    run(root, "questions", recipes["questions"], tmp_path / "other")
    said = run(root, "topics", recipes["topics"], tmp_path / "other", check=False)
    assert "mine.csv changed after topics/" in said and "Traceback" not in said
