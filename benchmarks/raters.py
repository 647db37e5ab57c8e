"""What the rating prompt does to a rater: the mass on scores with and without a begun reply and a system
text, on two scales, and whether the rater tells good from bad anchors. Writes docs/benchmarks.md.

    python benchmarks/raters.py MODEL_FOLDER [--anchors config/anchors/expert.jsonl]
"""

import argparse
import re
from pathlib import Path

import numpy as np
from expertchat.engine.interface import Source
from expertchat.engine.opening import open_engine
from expertchat.prompts import read_prompts
from expertchat.ratings.anchors import check_anchors, rate_anchors
from expertchat.ratings.asking import Rater
from expertchat.settings.anchors import read_anchors
from expertchat.settings.models import Load
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import read_rubric
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
SCALES = ((0, 9), (1, 5))


def variants(template: str) -> dict[tuple[str, str], str]:
    """{(system text, reply): template} with and without each block."""
    alone = re.sub(r"{% block system %}.*?{% endblock %}\n", "", template, flags=re.S)

    def unbegun(text: str) -> str:
        return re.sub(r"{% block reply %}.*?{% endblock %}", "Number:", text, flags=re.S)

    return {
        ("ours", "begun"): template,
        ("ours", "not begun"): unbegun(template),
        ("the template's", "begun"): alone,
        ("the template's", "not begun"): unbegun(alone),
    }


def main() -> None:
    """Rates the anchors with each prompt on each scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a chat model")
    parser.add_argument("--anchors", type=Path, default=ROOT / "config/anchors/expert.jsonl")
    parser.add_argument("--name", help="name of the model in the table; default: that of its folder")
    parser.add_argument("--print-only", action="store_true", help="do not write docs/benchmarks.md")
    arguments = parser.parse_args()
    name = arguments.name or arguments.model.resolve().name
    engine = open_engine(Source(name, arguments.model, Load(dtype="float32"), 16))
    anchors, settings = read_anchors(arguments.anchors), Ratings()
    rubric = read_rubric(ROOT / "config/rubrics/expert.yaml")
    template = read_prompts(ROOT / "config/prompts")["rating"]
    rows = []
    for low, high in SCALES:
        scaled = rubric.model_copy(update={"low": low, "high": high})
        for (system, reply), text in variants(template).items():
            rated = rate_anchors(Rater(name, engine, settings, scaled, text, 0), anchors)
            mass = np.array([row["valid_mass"] for row in rated])
            check = check_anchors(rated)
            bounds = [f"{100 * bound:.0f}" for bound in check["interval"] or ()]
            rows.append(
                [
                    f"{low} to {high}",
                    system,
                    reply,
                    f"{mass.mean():.3f}",
                    f"{mass.min():.3f}",
                    f"{100 * (mass < settings.min_valid_mass).mean():.0f} %",
                    f"{check['right']} of {check['topics']}",
                    f"{' to '.join(bounds)} %",
                    {True: "yes", False: "no", None: "unknown"}[check["blind"]],
                ]
            )
            print(*rows[-1], sep=" | ", flush=True)
    head = ["scale", "system text", "reply", "mean mass", "lowest", "under the floor"]
    head += ["good anchor higher", "95 % interval", "blind"]
    body = (
        f"{name}, float32, on the {len(anchors)} anchors in {len(rubric.categories)} categories. Mass: "
        f"the probability on valid scores; the floor is {settings.min_valid_mass:g}. Good anchor "
        "higher: topics in which the good version is rated above the bad one, with the exact interval "
        "of the share.\n\n" + markdown_table(head, rows)
    )
    print(body)
    if not arguments.print_only:
        record(f"The rating prompt: {name}", "benchmarks/raters.py", body)


if __name__ == "__main__":
    main()
