"""Has topics that a model wrote judged by readers who do not know which texts are the model's.

    python benchmarks/topic_reading.py kept.jsonl --sheet sheet.tsv
    python benchmarks/topic_reading.py kept.jsonl --readers a.tsv b.tsv c.tsv --who people --record

kept.jsonl is written by `benchmarks/topics.py --kept`. The first call writes the sheet that is to be
read (number, subject, text): the first 50 of these topics, 25 that people wrote, and 25 more of them
under another subject, in random order. Each reader writes a line `number<TAB>y or n<TAB>y or n` for each
number: whether the text is a topic of its subject on which one can take sides, and whether, read
strictly, it makes sense to an expert. The second call counts, by majority.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.records import read_records
from expertchat.topics.files import read_topic_file
from record import markdown_table, record

WRITTEN = Path(__file__).resolve().parents[1] / "config/topics/working-life.jsonl"  # by people
READ, CONTROLS, SEED = 50, 25, 5  # topics of the model; texts of each control; of the order
SOURCES = KEPT, PEOPLES, MOVED = "the model's", "people's", "people's, under another subject"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kept", type=Path, help="the model's topics")
    parser.add_argument("--sheet", type=Path, help="write the sheet for the readers")
    parser.add_argument("--readers", type=Path, nargs="+", help="their files, an odd number of them")
    parser.add_argument("--who", default="people", help="what the readers are")
    parser.add_argument(
        "--title",
        default="Topics that a model of 135M parameters writes",
        help="of the section in docs/benchmarks.md",
    )
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    kept = read_records(arguments.kept)[:READ]
    lines = sheet(kept)
    if arguments.sheet:
        text = "".join(f"{n}\t{line.subject}\t{line.text}\n" for n, line in enumerate(lines, 1))
        arguments.sheet.write_text(text, encoding="utf-8")
    if arguments.readers:
        readers = [judgements(path, len(lines)) for path in arguments.readers]
        body = counted(kept, lines, readers, arguments.who)
        print(body)
        if arguments.record:
            record(arguments.title, "benchmarks/topic_reading.py", body)


@dataclass(frozen=True)
class Line:
    """A line of the sheet; `source` is one of `SOURCES`."""

    subject: str
    text: str
    source: str


def sheet(kept: Sequence[Mapping[str, str]]) -> list[Line]:
    """The lines that are to be read, in random order."""
    rng = random.Random(SEED)
    written = read_topic_file(WRITTEN)
    rng.shuffle(written)
    subjects = sorted({topic.subject for topic in written})
    lines = [Line(topic["subject"], topic["topic"], KEPT) for topic in kept]
    lines += [Line(topic.subject, topic.topic, PEOPLES) for topic in written[:CONTROLS]]
    for topic in written[CONTROLS : 2 * CONTROLS]:
        other = rng.choice([subject for subject in subjects if subject != topic.subject])
        lines.append(Line(other, topic.topic, MOVED))
    rng.shuffle(lines)
    return lines


def judgements(path: Path, count: int) -> list[tuple[bool, bool]]:
    """(it is a topic of its subject, it makes sense) for each line of the sheet, by one reader."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, *said = line.split("\t")
        found[int(number)] = (said[0] == "y", said[1] == "y")
        if len(said) != 2 or not set(said) <= {"y", "n"}:
            raise ValueError(f"{path}: line {line!r}")
    if sorted(found) != list(range(1, count + 1)):
        raise ValueError(f"{path}: it must have the numbers 1 to {count}")
    return [found[number] for number in sorted(found)]


def counted(kept: Sequence[Mapping], lines: Sequence[Line], readers: Sequence[list], who: str) -> str:
    """What the readers found, as Markdown."""
    votes = [  # [lines, 2]: readers who say yes
        [sum(reader[number][which] for reader in readers) for which in (0, 1)]
        for number in range(len(lines))
    ]
    rows = []
    for source in SOURCES:
        own = [number for number, line in enumerate(lines) if line.source == source]
        row = [source, f"{len(own)}"]
        for which in (0, 1):
            most = sum(votes[number][which] > len(readers) / 2 for number in own)
            each = ", ".join(f"{sum(reader[number][which] for number in own)}" for reader in readers)
            row.append(f"{most} ({each})")
        rows.append(row)
    texts = [
        [line.subject, line.text, *(f"{yes}" for yes in vote)]
        for line, vote in zip(lines, votes, strict=True)
        if line.source == KEPT
    ]
    how = kept[0]
    return (
        f"{len(readers)} readers ({who}) who did not know the sources; by majority (by each reader). "
        f"Target: 45 of 50 are topics of their subject. For each topic the gate chose one of "
        f"{how['best_of']} texts, drawn at temperature {how['temperature']:g}.\n\n"
        + markdown_table(["source", "texts", "topic of its subject", "makes sense"], rows)
        + "\n\nReaders who said yes, for each text of the model:\n\n"
        + markdown_table(["subject", "text", "topic", "sense"], sorted(texts))
    )


if __name__ == "__main__":
    main()
