# Shared by all rules: the plan of the experiment, functions that look up a job in the plan, and one target
# rule per stage.

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from expertchat.errors import UserError
from expertchat.foreign import told
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.gpus import WANTED
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.runs import begin_run
from expertchat.pipeline.silence import Silence
from expertchat.pipeline.slurm import require
from expertchat.pipeline.store import recipe_path
from expertchat.planning.command import print_needs
from expertchat.planning.packing import read_packing, require_room
from expertchat.settings.config_files import check_config_file

ROOT = Path(workflow.basedir)

try:
    for file in workflow.configfiles:  # Snakemake keeps the last value of a duplicate key
        check_config_file(Path(file))
    experiment = read_experiment(config, ROOT)
    plan = make_plan(experiment, ROOT)
except UserError as error:
    raise WorkflowError(told(str(error))) from None

# Options with which Snakemake reads this file but runs no job of the plan
NO_JOBS = {
    *("--list", "--list-rules", "-l", "--list-target-rules", "--lt", "--summary", "-S"),
    *(
        "--detailed-summary",
        "-D",
        "--dag",
        "--rulegraph",
        "--filegraph",
        "--d3dag",
        "--lint",
        "--unlock",
    ),
    *("--list-changes", "--lc", "--list-input-changes", "--li", "--list-params-changes", "--lp"),
    *("--list-untracked", "--lu", "--list-conda-envs", "--containerize", "--generate-unit-tests"),
    *("--report", "--archive", "--cleanup-metadata", "--cm", "--delete-all-output"),
    *("--delete-temp-output", "--print-compilation"),
}
# how many GPUs each job needs, with EXPERTCHAT_PACK=1; jobs do not plan again
try:
    packed = read_packing(plan) if workflow.is_main_process else None
except UserError as error:
    raise WorkflowError(told(str(error))) from None
runs_jobs = not {word.split("=")[0] for word in sys.argv} & NO_JOBS

if workflow.is_main_process and runs_jobs and not workflow.output_settings.dryrun:
    try:
        begin_run(plan)
    except UserError as error:
        raise WorkflowError(told(str(error))) from None


# only here is the executor known, and this is not a dry run
onstart:
    if workflow.is_main_process and workflow.non_local_exec:
        settings = workflow.executor_settings
        # the name of its jobs in SLURM
        run = getattr(workflow.scheduler._executor, "run_uuid", None)
        try:
            if run is not None:
                require("sbatch", "--version")
            require_room(plan)
        except UserError as error:
            raise WorkflowError(told(str(error))) from None
        logger.addHandler(Silence(logger.warning, run, getattr(settings, "status_command", "")))


wildcard_constraints:
    id="[0-9a-f]{12}",


def made_by(producer, reader):
    """An input function: the manifests of stage `producer` that a job reads as input `reader`.

    `reader` is "stage.input", as in the job's recipe; the list is empty if the recipe has no such input.
    For a model that is tuned on instructions, stage sft stands for stage models.
    The manifests are ancient(), as ids decide what must run again, and not modification times.
    """
    stage, name = reader.split(".")

    def manifests(wildcards):
        return ancient(plan.inputs(stage, wildcards.id, name))

    return manifests


def measured_models(wildcards):
    """An input function: all measurements and the report. WorkflowError if nothing is to be measured."""
    if experiment.speeds is None:
        raise WorkflowError(
            "benchmark_models: this experiment has no section speeds, such as that of "
            "config/presets/biggest-model.yaml"
        )
    return plan.manifests("speeds", "report")


def threads_of(stage):
    """The threads of a job that runs several models, each of which uses `experiment.threads`."""
    return lambda wildcards: experiment.threads * max(
        1, len(plan.recipe(stage, wildcards.id).settings.get("load", {}))
    )


def resources_of(stage):
    """The resources of a job that runs a model: the GPUs of this machine, which the local profiles limit;
    with EXPERTCHAT_PACK=1 also memory, and what profiles/slurm then asks for."""
    if not packed:
        return {"machine_gpus": 1}

    def of_the_job(amount):
        return lambda wildcards: amount(f"{stage}/{wildcards.id}")

    asked = {"machine_gpus": packed.gpus, "mem_mb": packed.memory_mb}
    if packed.node.gpus:
        asked |= {"gres": packed.gres, "cpus_per_task": packed.cpus}
    return {name: of_the_job(amount) for name, amount in asked.items()}


def script_of(stage):
    """The stage's script, run by the Python interpreter that runs Snakemake; with EXPERTCHAT_PACK=1 with
    the number of this machine's GPUs that it may use."""
    script = [sys.executable, f"{ROOT}/workflow/scripts/{stage}.py"]
    if not packed:
        return script

    def command(wildcards):
        gpus = packed.fewest.get(f"{stage}/{wildcards.id}")
        return script if gpus is None else ["env", f"{WANTED}={gpus}", *script]

    return command


def recipe_of(stage):
    """The path of the job's recipe, the only argument of the stage's script."""
    return lambda wildcards: str(recipe_path(plan.store, f"{stage}/{wildcards.id}"))


def label_of(stage):
    """A description of the job for display, such as "policy of llama in round 1"."""
    return lambda wildcards: plan.recipe(stage, wildcards.id).label


# target rules: `snakemake topics` makes everything up to stage topics
for stage in STAGES:

    rule:
        name:
            stage
        input:
            plan.manifests(stage),
