# What all rules share: the plan, how a rule finds its job in it, and a target rule for each stage.

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import recipe_path

ROOT = Path(workflow.basedir)

try:
    experiment = read_experiment(config, ROOT)
    plan = make_plan(experiment, ROOT)
except UserError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process and not workflow.output_settings.dryrun:
    plan.write_recipes()
    plan.write_view()


wildcard_constraints:
    id="[0-9a-f]{12}",


def made_by(producer, reader):
    """The artifacts of stage `producer` that a job reads as an input: `reader` is "stage.input".

    Old or new, only their ids matter. A job whose recipe has no such input reads nothing for it.
    """
    stage, name = reader.split(".")

    def manifests(wildcards):
        return ancient(plan.inputs(stage, wildcards.id).get(name, []))

    return manifests


def threads_of(stage):
    """The threads of a job that runs several models: each works on its own."""
    return lambda wildcards: experiment.threads * max(
        1, len(plan.recipe(stage, wildcards.id).settings.get("load", {}))
    )


def script_of(stage):
    """The stage's program, run by the Python that runs snakemake."""
    return [sys.executable, f"{ROOT}/workflow/scripts/{stage}.py"]


def recipe_of(stage):
    """The file that tells the stage's script what to make."""
    return lambda wildcards: str(recipe_path(plan.store, f"{stage}/{wildcards.id}"))


def label_of(stage):
    """What the job is, for people."""
    return lambda wildcards: plan.recipe(stage, wildcards.id).label


for stage in STAGES:

    rule:
        name:
            stage
        input:
            plan.manifests(stage),
