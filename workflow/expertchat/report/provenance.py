"""Provenance: the settings, software versions and artifacts behind the page."""

from __future__ import annotations

from typing import Any

import yaml

from expertchat.report.blocks import Fold, Pre, Section, Table
from expertchat.report.results import Results


def manifests(results: Results) -> list[dict[str, Any]]:
    """The manifests of all jobs, in the order of the artifacts."""
    return [job.manifest for job in results.run.jobs.values()]


def section(results: Results) -> Section:
    """Settings, versions, machines and artifact ids, each in a fold."""
    jobs, labels = manifests(results), list(results.run.jobs)
    shown = yaml.safe_dump(results.settings["experiment"], sort_keys=False, allow_unicode=True)
    artifacts = [
        [
            m["recipe"]["stage"],
            label,
            m["recipe"]["id"],
            m["recipe"]["code"],
            m["finished"],
        ]
        for label, m in zip(labels, jobs, strict=True)
    ]
    lead = "The settings of this experiment, and the artifacts from which this page was made."
    blocks = [
        Fold("Settings", [Pre(shown)]),
        Fold("Software versions and machines", [version_table(jobs), machine_table(jobs)]),
        Fold(
            f"{len(jobs)} artifacts",
            [Table(["stage", "artifact", "id", "code", "finished"], artifacts, text_columns=5)],
        ),
    ]
    return Section("provenance", lead, blocks)


def version_table(jobs: list[dict[str, Any]]) -> Table:
    """The package versions that the jobs ran with; several per package if jobs differ."""
    versions: dict[str, dict[str, None]] = {}
    for manifest in jobs:
        for name, version in manifest["versions"].items():
            versions.setdefault(name, {})[version] = None
    rows = [[name, ", ".join(seen)] for name, seen in sorted(versions.items())]
    return Table(["package", "version"], rows, text_columns=2)


def machine_table(jobs: list[dict[str, Any]]) -> Table:
    """The kinds of machine that the jobs ran on, without host names."""
    counts: dict[tuple, int] = {}
    for manifest in jobs:
        machine = manifest["machine"]
        key = (machine["platform"], machine["cpus"], ", ".join(machine["gpus"]) or "none")
        counts[key] = counts.get(key, 0) + 1
    rows = [[platform, gpus, cpus, count] for (platform, cpus, gpus), count in counts.items()]
    return Table(["platform", "GPUs", "CPUs", "jobs"], rows, text_columns=2)
