"""The recipes of stage speeds, one for each model and way to load it."""

from __future__ import annotations

from expertchat.pipeline.recipes import load_runtime
from expertchat.pipeline.stage_recipes import StageRecipes, required
from expertchat.settings.speeds import load_name


def speeds(make: StageRecipes, name: str, model: str) -> list[str]:
    """The references of the measurements of `name`, one per variant; `model`: its artifact.

    Variants that load a model in the same way are one artifact, and so are models with the same weights.
    """
    section, own = required(make.experiment.speeds), make.experiment.models[name].load
    text = make.load_settings(name)  # with the text of a chat template in place of its path
    references = []
    for place, load in {load_name(load): load for load in section.loads(own)}.items():
        changed = load.recipe_settings() | {"chat_template": text["chat_template"]}
        settings = {**section.recipe_settings(), "load": {"model": changed}}
        runtime = load_runtime({"model": load})
        added = make.add("speeds", f"{name}/{place}", settings, {"model": model}, runtime=runtime)
        references.append(added)
    return references
