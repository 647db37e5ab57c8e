"""Shows what an experiment consists of and what is finished. Does not run any job."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

from expertchat.errors import UserError
from expertchat.foreign import shown, told
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.status import list_artifacts, plan_lines, status_lines
from expertchat.pipeline.store import artifact_path, manifest_path, remove_artifact
from expertchat.pipeline.upkeep import (
    finished_artifacts,
    unused_artifacts,
    unused_recipes,
    unused_work,
)
from expertchat.records import read_json
from expertchat.report.terminal import answer_lines, speed_lines
from expertchat.settings.config_files import check_options

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = ROOT / "config/config.yaml"


def say(*lines: str) -> None:
    """Prints lines in which models, servers or users may have written something."""
    print(shown("\n".join(lines)))


def plan_command(arguments: argparse.Namespace) -> int:
    """Print every artifact of the experiment, and what the jobs to come need: GPUs, memory, hours.

    Memory is that of the fullest GPU, by part, computed from the models' configurations. --gpus 4x16
    plans for four GPUs of 16 GiB, on whichever machine the plan is made. Exit code 1 if a job cannot run
    there. plan.json in the experiment's folder has the same by job.
    """
    plan = read_plan(arguments)
    say(*plan_lines(list_artifacts(plan)))
    if arguments.list:
        return 0
    from expertchat.planning.command import plan_needs

    lines, possible = plan_needs(plan, arguments.gpus, arguments.nodes)
    say("", *lines)
    return 0 if possible else 1


def status_command(arguments: argparse.Namespace) -> int:
    """Print what is done, running, resumable, failed and waiting, and what a rerun would do.

    running    a job is working on it now
    resumable  its job was interrupted and left checkpoints; a rerun resumes from them
    failed     its job ended with an error, which is printed; a rerun tries again
    waiting    not begun
    """
    plan = read_plan(arguments)
    say(*status_lines(list_artifacts(plan), arguments.all))
    outdated = plan.outdated_links()
    if outdated:
        print(
            f"{outdated} of {len(plan.views)} links in {plan.folder()} lead to results of earlier "
            "settings or code, which a notebook reads; the next run replaces them."
        )
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """Print the verdict, the accuracies of models and mixtures, cautions, and where the report is."""
    plan = read_plan(arguments)
    (report,) = (r for r, recipe in plan.recipes.items() if recipe.stage == "report")
    done = [reference for reference in plan.recipes if manifest_path(plan.store, reference).exists()]
    if report not in done:
        missing = f"the report is not finished ({len(done)} of {len(plan.recipes)} artifacts are done)"
        earlier = plan.folder() / "report/report.html"
        raise UserError(
            f"{missing if done else 'nothing of this experiment has run yet'}: run snakemake --profile "
            "profiles/local with the same settings (expertchat status shows what is missing)"
            + (f"; {earlier} is of earlier settings or code" if earlier.exists() else "")
        )
    summary = read_json(artifact_path(plan.store, report) / "summary.json")
    say(*summary["verdict"])
    if not summary["rounds"]:
        mmlu = plan.experiment.mmlu
        say(*answer_lines(summary, mmlu.published if mmlu else {}), *speed_lines(summary))
    if summary["cautions"]:
        say("", "cautions:", *(f"  - {caution}" for caution in summary["cautions"]))
    print(f"\nreport:  {plan.folder() / 'report' / 'report.html'}")
    print(f"figures: {plan.folder() / 'report' / 'summary.json'}")
    return 0


def verify_command(arguments: argparse.Namespace) -> int:
    """Check all artifacts in the store: recipe, files, inputs. Exit code 1 if any is damaged.

    With --full, files behind links, such as your own models, are read in whole too."""
    store = arguments.store
    references = finished_artifacts(store)
    damaged = 0
    for reference in references:
        damage = find_damage(artifact_path(store, reference), full=arguments.full)
        for sentence in damage:
            say(f"{reference}: {sentence}")
        if damage:
            damaged += 1
            if arguments.remove:
                remove_artifact(store, reference)
                print(f"{reference}: removed; the next run of snakemake makes it again")
    print(f"{count(len(references), 'artifact')}, {damaged} damaged")
    return 1 if damaged and not arguments.remove else 0


def prune_command(arguments: argparse.Namespace) -> int:
    """List the artifacts, recipe files and work folders that no experiment in the store uses. --yes
    removes them."""
    store = arguments.store
    artifacts, recipes, folders = unused_artifacts(store), unused_recipes(store), unused_work(store)
    print(*artifacts, *recipes, *folders, sep="\n", end="\n" if artifacts or recipes or folders else "")
    if arguments.yes:
        for reference in artifacts:
            remove_artifact(store, reference)
        for path in recipes:
            path.unlink()
        for path in folders:
            shutil.rmtree(path)
    done = "removed" if arguments.yes else "would be removed: add --yes to remove them"
    numbers = (
        count(len(artifacts), "artifact"),
        count(len(recipes), "recipe file"),
        count(len(folders), "work folder"),
    )
    print("{}, {} and {}".format(*numbers), done)
    return 0


def doctor_command(arguments: argparse.Namespace) -> int:
    """Check this machine, and with --slurm the cluster. Exit code 1 if there is a problem.

    Python and packages, CPUs, memory, the store's disk and its file locks, PyTorch, GPUs, bitsandbytes,
    and whether the experiment's models can be had without a network. Nothing is downloaded. The output
    has no secrets, so that it can be shown to others."""
    import expertchat
    from expertchat.doctor.checks import PROBLEM
    from expertchat.doctor.examination import Wishes, examine

    wishes = Wishes(arguments.slurm, arguments.write, arguments.job, arguments.wait)
    files = arguments.configfile or [DEFAULT_CONFIG]
    print(f"expertchat {expertchat.__version__} on {platform.node()}", flush=True)
    problems = 0
    for check in examine(files, arguments.config, ROOT, arguments.store, wishes):
        print(check.line, flush=True)
        problems += check.level == PROBLEM
    print(count(problems, "problem"))
    return 1 if problems else 0


def settings_command(arguments: argparse.Namespace) -> int:
    """Print the description of all settings as Markdown, as in config/README.md."""
    from expertchat.settings.describe import describe_settings

    print(describe_settings(), end="")
    return 0


def tables_command(arguments: argparse.Namespace) -> int:
    """Print the description of all tables of the results as Markdown, as in docs/python.md."""
    from expertchat.tables import describe_tables

    print(describe_tables(), end="")
    return 0


def count(number: int, noun: str) -> str:
    """ "1 artifact" or "2 artifacts"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_plan(arguments: argparse.Namespace) -> Plan:
    """The plan that snakemake makes of the same --configfile and --config."""
    config = read_config(arguments.configfile or [DEFAULT_CONFIG], arguments.config)
    plan = make_plan(read_experiment(config, ROOT), ROOT)
    plan.store = arguments.store
    return plan


# name: function, and examples for its --help
COMMANDS = {
    "plan": (
        plan_command,
        """expertchat plan
expertchat plan --gpus 4x16             for nodes with four GPUs of 16 GiB
expertchat plan --list                  the artifacts only
expertchat plan --configfile config/presets/laptop.yaml
expertchat plan --config rounds=2 'ppo={learning_rate: 1e-3}'""",
    ),
    "status": (
        status_command,
        """expertchat status                       one line per round and stage
expertchat status --all                 one line per artifact
expertchat status --configfile my.yaml --config control=shuffled""",
    ),
    "show": (
        show_command,
        """expertchat show
expertchat show --configfile config/presets/mmlu-mixture.yaml""",
    ),
    "verify": (
        verify_command,
        """expertchat verify                       report damaged artifacts
expertchat verify --full                also read linked models in whole
expertchat verify --remove              remove them; the next run of snakemake makes them again""",
    ),
    "prune": (
        prune_command,
        """expertchat prune                        list what would be removed
expertchat prune --yes                  remove it""",
    ),
    "doctor": (
        doctor_command,
        """expertchat doctor                       this machine
expertchat doctor --configfile config/presets/expertchat.yaml
expertchat doctor --slurm --write site.yaml    the cluster, and a site file from it
expertchat doctor --slurm --job         also on a compute node, by a short job""",
    ),
    "settings": (settings_command, "expertchat settings > config/README.md"),
    "tables": (tables_command, "expertchat tables | less"),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="expertchat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (function, examples) in COMMANDS.items():
        description = "\n".join(
            line.removeprefix("    ") for line in (function.__doc__ or "").splitlines()
        )
        command = commands.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            epilog="examples:\n  " + examples.replace("\n", "\n  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=function)
        if name in ("plan", "status", "show", "doctor"):
            add_config_options(command)
        if name != "settings":
            command.add_argument(
                "--store",
                type=Path,
                default=Path("results"),
                help="folder of results (default: results)",
            )
        if name == "plan":
            command.add_argument(
                "--gpus",
                metavar="4x16",
                help="number of GPUs of a node and GiB of each, or none (default: this machine's)",
            )
            command.add_argument(
                "--nodes", type=int, default=1, help="nodes of a job that trains a model (default: 1)"
            )
            command.add_argument("--list", action="store_true", help="the artifacts only")
        if name == "status":
            command.add_argument("--all", action="store_true", help="one line per artifact")
        if name == "verify":
            command.add_argument("--remove", action="store_true", help="remove damaged artifacts")
            command.add_argument("--full", action="store_true", help="read linked files in whole")
        if name == "prune":
            command.add_argument("--yes", action="store_true", help="remove, instead of only listing")
        if name == "doctor":
            add_doctor_options(command)
    return parser


def add_doctor_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `expertchat doctor`, each of which asks for the checks of --slurm too."""
    command.add_argument("--slurm", action="store_true", help="check the SLURM cluster too")
    command.add_argument("--write", type=Path, metavar="FILE", help="write a site file for the cluster")
    command.add_argument("--job", action="store_true", help="check compute nodes too, by a short job")
    command.add_argument(
        "--wait", type=float, default=10, metavar="MINUTES", help="for the job (default: 10)"
    )


def add_config_options(command: argparse.ArgumentParser) -> None:
    """Adds the options that choose the settings, which are those of snakemake."""
    command.add_argument(
        "--configfile",
        "--configfiles",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="settings; later files override earlier ones (default: config/config.yaml)",
    )
    command.add_argument(
        "--config",
        "-C",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override those in the files; values are YAML",
    )


def main() -> None:
    """Entry point of the command."""
    arguments = make_parser().parse_args()
    try:
        check_options(sys.argv[1:])
        sys.exit(arguments.run(arguments))
    except UserError as error:
        sys.exit(told(f"expertchat: {error}"))
    except BrokenPipeError:  # for example `expertchat plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
