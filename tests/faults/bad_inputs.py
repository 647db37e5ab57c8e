"""Bad inputs: each ends in one message that names the file, line or key, within ten seconds.

make test-faults                  800 bad inputs, and writes docs/benchmarks.md
bad_inputs.py --inputs 60         fewer; needs tests/ and benchmarks/ in PYTHONPATH

The inputs of each family (`families.py`) are valid ones that are changed in their structure, their
text or their bytes (`mutations.py`), and are the same in each run. Each is used as a user would use it,
in a process of its own (`trial.py`). Those that are still valid are counted apart, and others drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.families import FAMILIES, Family
from faults.trial import KINDS, LONGEST_SECONDS, Case, Outcome, try_case
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import NoSuchExample

ALL_INPUTS = 800
DRAWS = 8  # times the number of bad inputs that are wanted: valid ones are drawn too
REDUCTIONS = 200  # inputs tried to make one that fails smaller
FAILED = Path("results/bad-inputs")
CORPUS = Path(__file__).with_name("corpus")
DRAWING = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}


@dataclass(frozen=True)
class Tried:
    """An input of a family, and how it ended."""

    family: str
    case: Case
    outcome: Outcome


def try_family(name: str, wanted: int, on_end: Callable[[Tried], None] = lambda _: None) -> list[Tried]:
    """Different inputs of a family, of which `wanted` are bad, or fewer if not enough are drawn.

    They are always the same: hypothesis draws them from a checksum of `draw`.
    """
    family, seen = FAMILIES[name], set()
    tried: list[Tried] = []

    @settings(max_examples=DRAWS * wanted, phases=[Phase.generate], **DRAWING)
    @given(family.inputs)
    def draw(case: Case) -> None:
        digest = digest_of(case)
        if digest in seen or sum(t.outcome.kind != "accepted" for t in tried) >= wanted:
            return
        seen.add(digest)
        tried.append(Tried(name, case, try_case(case, family.use, family.names)))
        on_end(tried[-1])

    draw()
    return tried


def digest_of(case: Case) -> bytes:
    """A checksum of the files of a case."""
    return hashlib.sha256(repr(sorted(case.items())).encode()).digest()


def smaller(family: Family, failed: Tried) -> Case:
    """The smallest case that hypothesis finds to fail in the same way; the case itself if none."""

    def fails(case: Case) -> bool:
        return try_case(case, family.use, family.names).kind == failed.outcome.kind

    try:
        return find(family.inputs, fails, settings=settings(max_examples=REDUCTIONS, **DRAWING))
    except NoSuchExample:
        return failed.case


def keep(case: Case, folder: Path) -> None:
    """Writes the files of a case."""
    for name, data in case.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def corpus() -> dict[str, Case]:
    """{"family/name": case} of the inputs that once ended in a traceback, a hang or a bad message."""
    return {
        str(folder.relative_to(CORPUS)): {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for folder in sorted(CORPUS.glob("*/*"))
    }


def announce(tried: Tried) -> None:
    """Prints how an input ended, if it should not have ended so."""
    if not tried.outcome.is_good:
        print(f"{tried.family}: {tried.outcome.kind}: {tried.outcome.why}", flush=True)


def table(tried: Sequence[Tried]) -> str:
    """Inputs by family and end, as Markdown."""
    from record import markdown_table

    rows: list[list[str]] = []
    bad = [t for t in tried if t.outcome.kind != "accepted"]
    for name in [*FAMILIES, "all"]:
        own = [t.outcome for t in tried if name in (t.family, "all")]
        count = {kind: sum(outcome.kind == kind for outcome in own) for kind in KINDS}
        slowest = max((outcome.seconds for outcome in own), default=0)
        refused = sum(count.values()) - count["accepted"]
        ends = [f"{count[kind]}" for kind in KINDS if kind != "accepted"]
        rows.append([name, f"{refused}", *ends, f"{count['accepted']}", f"{slowest:.1f}"])
    head = ["family", "bad inputs", "one message", "message without a place", "traceback", "hang"]
    good = sum(one.outcome.kind == "message" for one in bad)
    text = (
        f"{good} of {len(bad)} bad inputs ended in one message. A hang is a run of more than "
        f"{LONGEST_SECONDS:g} seconds; inputs that were changed and are still valid are accepted."
    )
    return f"{markdown_table([*head, 'accepted', 'slowest, s'], rows)}\n\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=ALL_INPUTS)
    parser.add_argument("--family", choices=list(FAMILIES), action="append", help="only this one")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    tried: list[Tried] = []
    for name in arguments.family or FAMILIES:
        tried += try_family(name, arguments.inputs // len(FAMILIES), announce)
        failed = [t for t in tried if t.family == name and not t.outcome.is_good]
        for number, one in enumerate(failed):
            small = smaller(FAMILIES[name], one) if number == 0 else one.case
            keep(small, FAILED / name / f"{number}")
    print(table(tried))
    if arguments.record:
        from record import record

        record("Bad inputs", "tests/faults/bad_inputs.py", table(tried))
    sys.exit(any(not t.outcome.is_good for t in tried))


if __name__ == "__main__":
    main()
