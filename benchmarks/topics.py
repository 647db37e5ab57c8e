"""Lets a model write topics of some subjects as stage topics does, to be checked by readers.

    python benchmarks/topics.py path/to/model --kept kept.jsonl

Prints the topics that are kept with the gate's probability, the rejected ones by reason, and their
counts. `--kept` writes the kept ones to a file for `topic_reading.py`. `--others`: ten more subjects, to
see whether what was chosen on the first twelve holds. `--folder`: the texts are kept there, and are not
written again; delete it after a change of the code. The model is a folder in the Hugging Face layout.
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
from expertchat.records import read_records, write_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.topics import Examples, Gate, Topics
from expertchat.topics.artifact import REASONS
from expertchat.topics.asking import possible_examples
from expertchat.topics.files import read_topic_file
from expertchat.topics.pool import TopicPool
from expertchat.topics.taxonomies import choose_taxonomy
from expertchat.topics.writing import OUTCOMES, write_topics

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "config/topics/examples.jsonl"
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
    parser.add_argument("--kept", type=Path, help="write the kept topics to this file")
    arguments = parser.parse_args()
    outcomes = run(arguments)
    kept = [outcome for outcome in outcomes if outcome["reason"] is None]
    kept.sort(key=lambda outcome: (SUBJECTS + OTHERS).index(outcome["subject"]))
    print(f"\nKept: {len(kept)} of {len(outcomes)}")
    if arguments.kept:
        how = {"best_of": arguments.best_of, "temperature": arguments.temperature}
        rows = [{"subject": topic["subject"], "topic": topic["topic"], **how} for topic in kept]
        write_records(arguments.kept, rows)
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
