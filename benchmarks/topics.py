"""Lets a model write topics of some subjects as stage topics does, to be checked by reading.

Prints the topics that are kept with the gate's probability, the rejected ones by reason, and their
counts. A person reads the kept ones and counts those that are topics of their subject.

    python benchmarks/topics.py path/to/model --folder texts
    python benchmarks/topics.py path/to/model --folder texts --not-topics 3 17

The second call writes docs/benchmarks.md. The texts are kept in the folder, so that it does not let the
model write them again; delete the folder after a change of the code. `--others`: ten more subjects, to
see whether what was chosen on the first twelve holds; `--not-topics` then only counts.

With the numbers of those of the first 50 that are not topics of their subject, by whoever read them
(none: `--not-topics` alone), the result and the topics are written to docs/benchmarks.md. The model is
a folder in the Hugging Face layout.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from expertchat.checkpoints import Checkpoints
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.prompts import read_prompts
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.topics import Examples, Gate, Topics
from expertchat.topics.artifact import REASONS
from expertchat.topics.asking import possible_examples
from expertchat.topics.files import read_topic_file
from expertchat.topics.pool import TopicPool
from expertchat.topics.taxonomies import choose_taxonomy
from expertchat.topics.writing import OUTCOMES, write_topics
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "config/topics/examples.jsonl"
READ = 50  # kept texts that are read by a person
SUBJECTS = [
    "gardening",
    "criminal law",
    "bicycle repair",
    "astronomy",
    "dentistry",
    "firefighting",
    "bookkeeping",
    "teaching mathematics",
    "beekeeping",
    "social work",
    "electrical installation",
    "hotel management",
]
OTHERS = [
    "nursing",
    "carpentry",
    "aviation",
    "fishing",
    "midwifery",
    "web design",
    "roofing",
    "tax advice",
    "pottery",
    "dog training",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--folder", type=Path, help="keeps the texts; default: a temporary folder")
    parser.add_argument("--others", action="store_true", help="the ten other subjects")
    parser.add_argument("--subjects", type=int, help="number of subjects, the first ones; default: all")
    parser.add_argument("--per-subject", type=int, default=5)
    parser.add_argument("--tries", type=int, default=8, help="per topic")
    parser.add_argument("--taken", type=int, default=0, help="topics that a prompt lists as taken")
    parser.add_argument("--temperature", type=float, default=0.4)
    parser.add_argument("--shown", type=int, default=4, help="examples; 0: none")
    parser.add_argument("--threshold", type=float, default=Gate().threshold, help="of the gate")
    parser.add_argument("--best-of", type=int, default=16, help="texts for each topic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--not-topics", type=int, nargs="*", help="numbers of kept texts; writes the result"
    )
    arguments = parser.parse_args()
    outcomes = run(arguments)
    kept = [outcome for outcome in outcomes if outcome["reason"] is None]
    kept.sort(key=lambda outcome: (SUBJECTS + OTHERS).index(outcome["subject"]))
    print(f"\nKept: {len(kept)} of {len(outcomes)}")
    if arguments.not_topics is not None and arguments.others:
        print(f"Of the first {READ}, {READ - len(arguments.not_topics)} are topics of their subject")
    elif arguments.not_topics is not None:
        write(kept[:READ], len(outcomes), arguments.not_topics)
    for number, topic in enumerate(kept, 1):
        print(f"{number:3d}  {topic['gate']:.2f}  {topic['subject']}: {topic['topic']}")
    counts = Counter(outcome["reason"] for outcome in outcomes)
    for reason in REASONS:
        if counts[reason]:
            print(f"\nRejected, {reason}: {counts[reason]}")
        for topic in outcomes:
            if topic["reason"] == reason:
                gate = "    " if topic["gate"] is None else f"{topic['gate']:.2f}"
                print(f"     {gate}  {topic['subject']}: {topic['topic']}")


def write(kept: list[dict], tried: int, not_topics: list[int]) -> None:
    """Writes the section of docs/benchmarks.md. `not_topics`: numbers of `kept`, from 1."""
    right = len(kept) - len(not_topics)
    rows = [
        [f"{number}", topic["subject"], topic["topic"], "no" if number in not_topics else ""]
        for number, topic in enumerate(kept, 1)
    ]
    body = (
        f"Of {tried} texts, the first {len(kept)} that were kept were read one by one: {right} are "
        "topics of their subject (target: 45 of 50).\n\n"
        + markdown_table(["", "subject", "text", "a topic of it?"], rows)
    )
    record("Topics that a model of 135M parameters writes", "benchmarks/topics.py", body)


def run(arguments: argparse.Namespace) -> list[dict]:
    """All texts that the model wrote, with the reasons for rejecting some of them."""
    settings = Topics(
        subjects=(OTHERS if arguments.others else SUBJECTS)[: arguments.subjects],
        per_subject=arguments.per_subject,
        tries_per_topic=arguments.tries,
        max_taken=arguments.taken,
        examples=Examples(path=EXAMPLES, shown=arguments.shown) if arguments.shown else None,
        gate=Gate(threshold=arguments.threshold, best_of=arguments.best_of),
        decoding=Decoding(temperature=arguments.temperature, max_new_tokens=48, stop=["\n"]),
    )
    taxonomy = choose_taxonomy(settings, ROOT, arguments.seed)
    examples = possible_examples(read_topic_file(ROOT / EXAMPLES), taxonomy.held_out, settings.examples)
    texts, pool = read_prompts(ROOT / "config/prompts"), TopicPool(settings.max_similarity)
    engines = {"model": LocalEngine(arguments.model, Load(dtype="float32"), 32)}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_topics(
                engines,
                settings,
                taxonomy,
                texts,
                arguments.seed,
                pool,
                given=[],
                examples=examples,
                checkpoints=folder,
                out=folder,
            )
        except UserError as error:  # too few topics; those that were written are shown
            print(error)
        last = Checkpoints(folder / "rounds").latest()
        return [] if last is None else read_records(last / OUTCOMES)


if __name__ == "__main__":
    main()
