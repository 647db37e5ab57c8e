"""The layer of each module, imports in one direction, and one name for each stage."""

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter

import pytest
import yaml
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.fingerprints import NEUTRAL, PACKAGE, SCRIPTS, code_files
from expertchat.pipeline.plan import STAGES
from expertchat.pipeline.planner import make_plan
from packaging.requirements import Requirement
from planning import LEARNING, MEASURING, with_sft

# From the bottom to the top: a module imports from its own layer or from layers below it.
# Within layer "stages" it imports from its own package only.
LAYERS = {
    "foundations": (
        *("errors", "splits", "seeds", "records", "checkpoints", "sentences", "statistics"),
        *("console", "foreign", "limits"),
    ),
    "messages": ("chat", "prompts", "contexts", "data_files", "rehearsal", "rehearsal.*"),
    "settings": ("settings", "settings.*"),
    "store": ("pipeline.recipes", "pipeline.fingerprints", "pipeline.store"),
    "engine": ("engine", "engine.*"),
    "demo": ("demo", "demo.*"),
    # what later stages read of a stage: file names, columns, readers
    "artifacts": (
        *("*.artifact", "dialogues.contexts"),
        *("rewards.encoding", "rewards.length_head", "rewards.scoring"),
    ),
    "stages": tuple(p for stage in STAGES if stage != "report" for p in (stage, f"{stage}.*")),
    "pipeline": ("pipeline", "pipeline.*"),
    "planning": ("planning", "planning.*"),
    "results": ("results", "tables"),
    "report": ("report", "report.*"),
    "doctor": ("doctor", "doctor.*"),
    "command": ("cli", ""),  # "" is the package itself
}
MOST_TOP_MODULES, MOST_LINES = 18, 400


def dotted(path) -> str:
    """The module's name below the package, such as "topics.pool"; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> str | None:
    """The layer that lists the module's name; if none does, the first with a matching pattern."""
    for patterns in LAYERS.values():
        if module in patterns:
            return next(name for name, own in LAYERS.items() if own is patterns)
    found = [name for name, own in LAYERS.items() if any(fnmatchcase(module, p) for p in own)]
    return found[0] if found else None


def top_package(module: str) -> str:
    """The first part of a module's name: its package or, for a module on its own, itself."""
    return module.split(".")[0]


@cache
def names_imported(path) -> frozenset[str]:
    """The dotted names of all imports in a file, imports inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def imports_of(path) -> set[str]:
    """The modules of this package that a file imports. Packages of imported modules are left out."""
    own = {n.removeprefix("expertchat.") for n in names_imported(path) if n.startswith("expertchat.")}
    found = {name for name in own if name in MODULES}
    return {name for name in found if not any(other.startswith(name + ".") for other in found)}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_in_one_direction(module):
    layer, order = layer_of(module), list(LAYERS)
    assert layer is not None, f"{module} is not in any layer: add it to LAYERS"
    for other in imports_of(MODULES[module]):
        other_layer = layer_of(other)
        same_package = top_package(module) == top_package(other)
        same_layer = layer == other_layer and (layer != "stages" or same_package)
        is_lower = order.index(other_layer) < order.index(layer)
        assert same_layer or is_lower, f"{module} ({layer}) imports {other}"


def test_no_circular_imports():
    graph = {module: imports_of(path) for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_stages_import_only_four_modules_of_the_engine():
    for module, path in MODULES.items():
        if layer_of(module) in ("stages", "artifacts"):
            used = {name for name in imports_of(path) if top_package(name) == "engine"}
            allowed = {"interface", "pieces", "timed", "training"}
            assert used <= {f"engine.{name}" for name in allowed}, module


def test_init_files_contain_only_a_docstring():
    for name in {*STAGES, "pipeline", "engine", "settings"}:
        if (PACKAGE / name).is_dir():
            body = ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8")).body
            assert [type(node) for node in body] == [ast.Expr], name


def test_files_and_the_package_stay_small():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_TOP_MODULES
    for path in (*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < MOST_LINES, f"{path.relative_to(PACKAGE.parent)} has {lines} lines"


def test_neutral_names_are_modules_that_exist():
    names = {name.removesuffix(".*") for name in NEUTRAL}
    assert {name.removeprefix("expertchat").removeprefix(".") for name in names} <= set(MODULES)


def test_only_stage_oracle_imports_the_oracle():
    oracle = PACKAGE / "demo/oracle.py"
    reaching = {stage for stage in STAGES if oracle in code_files(SCRIPTS / f"{stage}.py")}
    assert reaching == {"oracle"}
    importing = {module for module, path in MODULES.items() if "demo.oracle" in imports_of(path)}
    assert importing == {"oracle.comparison"}


def test_the_library_never_imports_snakemake():
    for path in MODULES.values():
        assert not any(name.startswith("snakemake") for name in names_imported(path)), path


def test_planning_imports_nothing_heavy():
    code = (
        "import sys, expertchat.pipeline.planner, expertchat.pipeline.experiment;"
        "print(sorted({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def rules(root) -> dict[str, dict[str, str]]:
    """{stage: {name of an input: the stage that makes it}}, read from the files in rules/."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(root.glob("rules/*.smk")))
    found = {}
    for part in re.split(r"^rule make_", text, flags=re.MULTILINE)[1:]:
        stage = part.split(":")[0]
        assert f'"results/{stage}/{{id}}/manifest.json"' in part and '"""' in part, stage
        inputs = re.findall(r'(\w+)=made_by\(\s*"(\w+)",\s*"([\w.]+)"\s*\)', part)
        assert all(reader == f"{stage}.{name}" for name, _, reader in inputs), inputs
        found[stage] = {name: producer for name, producer, _ in inputs}
    return found


def plans(root, default_config):
    """Plans that use every input of every stage. In the last one, stage sft stands for stage models."""
    ratings = {"tuned_raters": True, "anchors": "config/anchors/expert.jsonl"}
    two = default_config | {"rounds": 2, "ratings": default_config["ratings"] | ratings}
    two["topics"] = two["topics"] | {"decontaminate": True}
    tuned = with_sft(default_config)
    configs = (default_config, two, tuned, LEARNING, MEASURING)
    return [make_plan(read_experiment(config, root), root) for config in configs]


def test_rules_name_the_inputs_that_the_planner_gives(rules, root, default_config):
    assert set(rules) == set(STAGES)
    given: dict[str, dict[str, str]] = {stage: {} for stage in STAGES}
    for plan in plans(root, default_config):
        for recipe in plan.recipes.values():
            for name, references in recipe.inputs.items():
                for reference in [references] if isinstance(references, str) else references:
                    producer = reference.split("/")[0]
                    if producer == "sft" and name in ("model", "models"):
                        producer = "models"
                    given[recipe.stage][name] = producer
    assert given == rules


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage, root):
    assert (root / f"workflow/scripts/{stage}.py").is_file()
    shared = {"fits": "mixture.fits", "anchors": "ratings.anchors"}  # in the package of another stage
    module = shared.get(stage, stage)
    assert module in MODULES


def test_lock_file_environment_and_package_agree(root):
    lock = dict(
        line.lower().replace("_", "-").split("==")
        for line in (root / "requirements.lock").read_text().splitlines()
        if "==" in line
    )
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ranges = [Requirement(text) for text in (*project["dependencies"], *extras["workflow"])]
    for wanted in (*ranges, *map(Requirement, extras["dev"])):
        assert lock[wanted.name.lower()] in wanted.specifier, wanted
    environment = yaml.safe_load((root / "environment.yml").read_text())
    pinned = dict(line.split("==") for line in environment["dependencies"][-1]["pip"] if "==" in line)
    assert pinned == {wanted.name: lock[wanted.name.lower()] for wanted in ranges}
