"""The command `expertchat`: what an experiment's plan says, without running anything.

plan    every artifact of the experiment, with its id and whether it is made
show    where the report is, its verdict, and the table of models and mixtures that answered questions
verify  checks all artifacts by their checksums; --remove takes damaged ones away, to be made again
prune   removes artifacts that belong to no experiment seen
settings  the description of every setting, as Markdown
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.plan import STAGES, Plan
from expertchat.pipeline.planner import make_plan
from expertchat.pipeline.store import artifact_path, faults, manifest_path, set_aside
from expertchat.settings.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[2]


def read_plan(configfile: Path) -> Plan:
    """The plan of the experiment in a YAML file, as snakemake would make it."""
    config = read_yaml(configfile, "see config/config.yaml for an example")
    return make_plan(read_experiment(config, ROOT), ROOT)


def plan_command(arguments: argparse.Namespace) -> int:
    """Prints one line an artifact."""
    plan = read_plan(arguments.configfile)
    made = 0
    for reference, recipe in plan.recipes.items():
        done = manifest_path(plan.store, reference).exists()
        made += done
        print(f"{'made' if done else '    '}  {reference:24}  {recipe.label}")
    print(f"{made} of {len(plan.recipes)} made")
    return 0


def show_command(arguments: argparse.Namespace) -> int:
    """Prints the verdict and where the report is."""
    plan = read_plan(arguments.configfile)
    reports = [r for r, recipe in plan.recipes.items() if recipe.stage == "report"]
    if not reports:
        print(f"Transcripts have ratings and no report: see {plan.folder()}")
        return 0
    (reference,) = reports
    folder = artifact_path(plan.store, reference)
    if not manifest_path(plan.store, reference).exists():
        raise UserError("the report is not made yet: run snakemake --profile profiles/local")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    print("\n".join(summary["verdict"]))
    if not summary["rounds"]:
        asked = plan.experiment.mmlu
        print(*answer_lines(summary, asked.published if asked else {}), sep="\n")
    print(f"\nreport:  {plan.folder() / 'report' / 'report.html'}")
    print(f"figures: {plan.folder() / 'report' / 'summary.json'}")
    return 0


def answer_lines(summary: dict[str, Any], published: dict[str, float]) -> list[str]:
    """What base models and mixtures answered correctly, in per cent, beside what is published."""
    if not summary["mmlu"]:
        return []
    mixed = summary["mixture"][0] if summary["mixture"] else None
    methods = mixed["methods"] if mixed else []
    members = {m["title"]: m for m in methods if m["kind"] == "member"}
    methods = [m for m in methods if m["kind"] != "member"]
    rows = [(row["model"], row, members.get(row["model"])) for row in summary["mmlu"]]
    for method in methods:
        title = "oracle, no method" if method["kind"] == "oracle" else method["title"]
        chosen = " (*)" if method["method"] == mixed["chosen_fitted"] else ""
        rows.append((title + chosen, method, method))
    over = ["over best single", "95 %"] if mixed else []
    lines = [["", "right, %", "95 %", *over, *(["published"] if published else [])]]
    for name, row, gain in rows:
        line = [name, f"{100 * row['accuracy']:.2f}", _bounds(row["interval"])]
        if gain:
            line.append(f"{100 * gain['over_best_single']:+.2f}")
            line.append(_bounds(gain["over_best_single_interval"], "+"))
        other = row["published"]
        lines.append(line + ["" if other is None else f"{100 * other:.2f}"] * bool(published))
    known = {row["model"] for row in summary["mmlu"]} | {m["method"] for m in methods}
    unknown = [f"{name} {value:.2f} %" for name, value in published.items() if name not in known]
    notes = [f"Published, and not measured here: {', '.join(unknown)}."] if unknown else []
    if published:
        notes.insert(0, "Published figures are others': prompts, precision or versions may differ.")
    if mixed:
        single = mixed["best_single"]
        notes.insert(0, f"(*) the best fitted mixture by val; best single model by val: {single}.")
    return ["", *aligned(lines), *notes]


def _bounds(interval: list[float] | None, sign: str = "") -> str:
    return " to ".join(f"{100 * bound:{sign}.2f}" for bound in interval) if interval else ""


def aligned(rows: list[list[str]]) -> list[str]:
    """The rows in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def stored(store: Path) -> list[str]:
    """References of all finished artifacts of the store."""
    paths = [path for stage in STAGES for path in sorted((store / stage).glob("*/manifest.json"))]
    return [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]


def verify_command(arguments: argparse.Namespace) -> int:
    """Names what is damaged; 1 where something is."""
    store, damaged = arguments.store, 0
    for reference in stored(store):
        for fault in faults(artifact_path(store, reference)):
            print(f"{reference}: {fault}")
        if faults(artifact_path(store, reference)):
            damaged += 1
            if arguments.remove:
                set_aside(store, reference)
                print(f"{reference}: removed; the next run of snakemake makes it again")
    print(f"{len(stored(store)) + (damaged if arguments.remove else 0)} artifacts, {damaged} damaged")
    return 1 if damaged and not arguments.remove else 0


def linked(store: Path) -> set[str]:
    """References of artifacts that some experiment's view links to."""
    links = [path for path in (store / "experiments").rglob("*") if path.is_symlink()]
    targets = [path.parent.joinpath(path.readlink()) for path in links]
    return {f"{target.parts[-2]}/{target.parts[-1]}" for target in targets}


def prune_command(arguments: argparse.Namespace) -> int:
    """Removes what no experiment's view links to, once --yes is given."""
    store = arguments.store
    unused = [reference for reference in stored(store) if reference not in linked(store)]
    for reference in unused:
        print(reference)
        if arguments.yes:
            set_aside(store, reference)
    print(f"{len(unused)} artifacts {'removed' if arguments.yes else 'would be removed (--yes)'}")
    return 0


def settings_command(arguments: argparse.Namespace) -> int:
    """Prints config/README.md."""
    from expertchat.settings.describe import describe_settings

    print(describe_settings(), end="")
    return 0


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(
        prog="expertchat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, function in (("plan", plan_command), ("show", show_command)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument(
            "--configfile", type=Path, default=ROOT / "config/config.yaml", help="the experiment's YAML"
        )
        command.set_defaults(run=function)
    verify = commands.add_parser("verify", help=verify_command.__doc__)
    verify.add_argument("--remove", action="store_true", help="take damaged artifacts away")
    verify.set_defaults(run=verify_command)
    prune = commands.add_parser("prune", help=prune_command.__doc__)
    prune.add_argument("--yes", action="store_true", help="remove them, do not only list them")
    prune.set_defaults(run=prune_command)
    for command in (verify, prune):
        command.add_argument("--store", type=Path, default=Path("results"), help="default: results")
    commands.add_parser("settings", help=settings_command.__doc__).set_defaults(run=settings_command)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except UserError as error:
        sys.exit(f"expertchat: {error}")
    except BrokenPipeError:  # such as `expertchat plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
