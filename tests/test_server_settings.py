"""Models behind a server in settings, plans and jobs; addresses and keys appear in none of them."""

import json
import subprocess
import sys

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.store import recipe_path, write_recipe

FAULTS = {
    "neither": ({}, "exactly one of the keys command and url_env"),
    "both": ({"command": "a {port}", "url_env": "A"}, "exactly one of the keys command and url_env"),
    "no port": ({"command": "vllm serve {folder}"}, "command: must contain {port}"),
    "no such place": ({"command": "a {port} {fodler}"}, "command: unknown placeholder {fodler}"),
    "open quote": ({"command": "a '{port}"}, "command: it has no closing quotation"),
    "adapter for a running one": (
        {"url_env": "A", "adapter_arguments": "{adapter}"},
        "adapter_arguments",
    ),
    "an address in the settings": ({"url_env": "http://secret-host"}, "url_env: must be the name"),
    "a key in the settings": ({"url_env": "A", "key_env": "sk-secret"}, "key_env: must be the name"),
}


def with_server(config, **server):
    for name in config["models"]:
        config["models"][name]["load"] = {"server": server}
    return config


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_the_settings_are_reported_without_secrets(case, default_config, root):
    from expertchat.pipeline.experiment import read_experiment

    server, expected = FAULTS[case]
    with pytest.raises(UserError) as caught:
        read_experiment(with_server(default_config, **server), root)
    message = str(caught.value)
    assert (
        f"models.llama.load.server.{expected.split(':')[0].split()[0]}" in message or expected in message
    )
    assert expected in message and "secret" not in message


def test_the_pair_must_be_tunable(default_config, root):
    from expertchat.pipeline.experiment import read_experiment

    with pytest.raises(UserError, match=r"load\.server\.adapter_arguments: missing"):
        read_experiment(with_server(default_config, command="a {folder} {port}"), root)
    default_config["models"]["llama"] = {"source": "server", "load": {"server": {"url_env": "A"}}}
    with pytest.raises(UserError, match=r"pairs: 'llama' has no local weights"):
        read_experiment(default_config, root)
    assert read_experiment({**default_config, "rounds": 0}, root)  # it may talk and rate
    default_config["models"]["llama"]["load"] = {}
    with pytest.raises(UserError, match=r"models\.llama\.load\.server: missing"):
        read_experiment(default_config, root)
    default_config["models"]["llama"]["load"] = {"server": {"command": "a {folder} {port}"}}
    with pytest.raises(
        UserError, match=r"models\.llama\.load\.server\.command: must not contain \{folder\}"
    ):
        read_experiment(default_config, root)


def test_recipes_hold_what_changes_results_and_nothing_of_where_the_server_is(
    default_config, root, tmp_path
):
    from expertchat.pipeline.experiment import read_experiment
    from expertchat.pipeline.jobs import Job
    from expertchat.pipeline.planner import make_plan

    base = {"command": "serve {folder} {port}", "adapter_arguments": "--lora {adapter}"}

    def recipes(**changes):
        experiment = read_experiment(with_server(default_config, **base | changes), root)
        return experiment, make_plan(experiment, root).recipes

    experiment, plain = recipes()
    _, moved = recipes(key_env="OTHER_KEY", parallel=2, retries=1, timeout_seconds=5, start_minutes=1)
    changed = set(moved) - set(plain)  # the report shows the settings as they were given
    assert {reference.split("/")[0] for reference in changed} == {"report"}
    for change in ({"command": "other {folder} {port}"}, {"model": "m"}, {"top_logprobs": 5}):
        _, other = recipes(**change)
        stages = {reference.split("/")[0] for reference in set(plain) - set(other)}
        assert {"topics", "dialogues", "ratings", "mmlu"} <= stages
    for recipe in moved.values():
        if recipe.stage != "report":
            assert "OTHER_KEY" not in json.dumps([recipe.settings])
    ratings = next(recipe for recipe in plain.values() if recipe.stage == "ratings")
    job = Job(ratings, tmp_path, tmp_path, tmp_path)
    rater = ratings.settings["rater"]
    assert job.load(rater) == experiment.models[rater].load


def test_a_model_behind_a_server_has_an_artifact_without_weights(default_config, root, tmp_path):
    from expertchat.pipeline.jobs import Job
    from expertchat.pipeline.stage_recipes import StageRecipes
    from expertchat.settings.experiment import Experiment

    for name in ("judge", "other"):
        server = {"url_env": "JUDGE_URL", "model": name}
        default_config["models"][name] = {"source": "server", "load": {"server": server}}
    stages = StageRecipes(Experiment.model_validate(default_config), root)
    references = [stages.model(name) for name in ("judge", "other")]
    assert len(set(references)) == 2
    recipe = stages.plan.recipes[references[0]]
    store = tmp_path / "results"
    script = root / "workflow/scripts/models.py"
    write_recipe(store, recipe)
    file = recipe_path(store, recipe.reference)
    subprocess.run([sys.executable, script, file, "--store", store], check=True)
    (made,) = store.glob("models/*")
    assert json.loads((made / "server.json").read_text())["model"] == "judge"
    assert "JUDGE_URL" not in "".join(p.read_text() for p in made.iterdir())
    assert isinstance(Job(recipe, store, made, made), Job)
