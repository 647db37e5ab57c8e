"""Compares two runs of the same experiments: is every file of every artifact the same, byte for byte?

python benchmarks/same_bytes.py FIRST SECOND            two folders `results`
python benchmarks/same_bytes.py FIRST SECOND --record   writes the result to docs/benchmarks.md

The report shows how long jobs took and how much memory they used, so its files differ. Of summary.json,
all figures but these are compared. Ends with exit code 1 if anything else differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from expertchat.pipeline.integrity import find_damage
from expertchat.pipeline.store import read_manifest
from record import markdown_table, record

MEASURED = ("seconds", "peak_memory_bytes")  # keys of summary.json, the costs of the run


def artifacts(store: Path) -> dict[str, Path]:
    """{reference: folder} of all finished artifacts of a store."""
    folders = (manifest.parent for manifest in sorted(store.glob("*/*/manifest.json")))
    return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}


def same_summary(first: Path, second: Path) -> bool:
    """Whether two files summary.json differ in nothing but `MEASURED`."""
    contents = [json.loads((folder / "summary.json").read_text()) for folder in (first, second)]
    for content in contents:
        for key in MEASURED:
            content.pop(key)
    return contents[0] == contents[1]


def differing_files(first: Path, second: Path) -> list[str]:
    """The files of an artifact that are not the same in both folders, or are in one of them only."""
    one, other = (read_manifest(folder)["files"] for folder in (first, second))
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    first, second = artifacts(arguments.first), artifacts(arguments.second)
    if not first:
        parser.error(f"{arguments.first}: no finished artifact; give a folder results")
    faults = [f"{name}: in one of the two folders only" for name in sorted(set(first) ^ set(second))]
    compared: Counter[str] = Counter()
    files: Counter[str] = Counter()
    same: Counter[str] = Counter()
    for name in sorted(set(first) & set(second)):
        stage = name.split("/")[0]
        damage = [line for folder in (first[name], second[name]) for line in find_damage(folder)]
        differing = differing_files(first[name], second[name])
        compared[stage] += 1
        files[stage] += len(read_manifest(first[name])["files"])
        same[stage] += len(read_manifest(first[name])["files"]) - len(differing)
        faults += damage
        if stage == "report":
            if not same_summary(first[name], second[name]):
                faults.append(f"{name}: summary.json differs in more than times and memory")
        else:
            faults += [f"{name}: {file} differs" for file in differing]
    head = ["stage", "artifacts", "files", "same bytes"]
    rows = [
        [stage, *(f"{counts[stage]}" for counts in (compared, files, same))]
        for stage in sorted(compared)
    ]
    table = markdown_table(head, rows)
    print(table, *faults, sep="\n")
    if arguments.record:
        found = "\n".join(f"- {fault}" for fault in faults) or "Nothing else differs."
        text = "Report: its files show times and memory; the other figures of summary.json are compared."
        record("The same seed twice", "benchmarks/same_bytes.py", f"{table}\n\n{text}\n\n{found}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
