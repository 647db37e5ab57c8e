"""Human preferences: which data sets they come from, and how they are split."""

from __future__ import annotations

from expertchat.report.blocks import Section, Table
from expertchat.report.results import Results
from expertchat.report.wording import counted
from expertchat.splits import HELD_OUT, JUDGE, TRAIN

USES = {
    TRAIN: "the reward model that PPO follows, and PPO's prompts",
    JUDGE: "the judge's reward model only",
    HELD_OUT: "nothing is trained on them: accuracy of reward models, replies that are compared",
}


def section(results: Results) -> Section:
    """The data sets and the splits."""
    counts = results.summary["preferences"]
    lead = (
        "Each pair has two replies to one conversation, of which a person preferred one. Pairs whose "
        "conversations begin alike are in the same split."
    )
    if counts["shortened"]:
        words = counted(counts["shortened"], "conversation")
        lead += f" {words} had more words than allowed and lost the oldest messages."
    keys = ("name", "format", "records", "pairs", "invalid", "duplicates", "equal")
    data = [[f"{c[k]:,}" if isinstance(c[k], int) else c[k] for k in keys] for c in counts["data"]]
    splits = [[name.replace("_", "-"), use, f"{counts['splits'][name]:,}"] for name, use in USES.items()]
    return Section(
        "preferences",
        lead,
        [
            Table(["split", "what it is used for", "pairs"], splits, text_columns=2),
            Table(list(keys), data, note="Equal: left out, as both replies are the same."),
        ],
    )
