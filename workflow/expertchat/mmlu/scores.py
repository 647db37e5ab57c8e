"""Stage mmlu: accuracies of the models' answers to multiple-choice questions, and their differences.

The input are tables of answers with one row per question {subject, index, gold, prediction, ...}, as
`read_answers` returns them. All accuracies are shares in [0, 1]. Intervals are [low, high], 95 %, by the
percentile bootstrap. With several subjects it draws complete subjects, because other subjects would have
given other accuracies (Field and Welsh 2007); with one subject it draws questions. If all resamples are
equal, for example because all answers are right, the interval is a score interval over questions
instead: Wilson's for an accuracy, Tango's for a difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from expertchat.answers.artifact import KEY, PROBABILITIES
from expertchat.errors import UserError
from expertchat.mmlu.categories import GROUPINGS, HARNESS, harness_order
from expertchat.questions.artifact import LETTERS
from expertchat.statistics import (
    DEGENERATE,
    accuracy_interval,
    calibration_error,
    cluster_bootstrap,
    difference_interval,
    holm,
    mcnemar,
    mean_stderr,
    paired_bootstrap,
    pooled_stderr,
)


def accuracy(right: pd.Series | Sequence[bool]) -> dict[str, Any]:
    """{accuracy, stderr, questions} of one subject, with the rounding of lm-evaluation-harness."""
    values = [float(value) for value in right]
    return {
        "accuracy": sum(values) / len(values),
        "stderr": mean_stderr(values),
        "questions": len(values),
    }


def pooled(subjects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{accuracy, stderr, questions, subjects} over all questions of several subjects, from the results
    of `accuracy` for each: weighted by size, and pooled as lm-evaluation-harness does for its groups.
    """
    sizes = [found["questions"] for found in subjects]
    weighted = sum(found["accuracy"] * size for found, size in zip(subjects, sizes, strict=True))
    return {
        "accuracy": weighted / sum(sizes),
        "stderr": pooled_stderr([found["stderr"] for found in subjects], sizes),
        "questions": sum(sizes),
        "subjects": len(sizes),
    }


def by_subject(answers: pd.DataFrame, right: pd.Series) -> dict[str, dict[str, Any]]:
    """`accuracy` of each subject, in the order in which the harness sums them."""
    groups = dict(list(right.groupby(answers["subject"])))
    return {str(name): accuracy(groups[name]) for name in sorted(groups, key=harness_order)}


def results(answers: pd.DataFrame) -> dict[str, Any]:
    """The results of one model; docs/mmlu.md describes each key."""
    right = answers["prediction"] == answers["gold"]
    subjects = by_subject(answers, right)
    values = list(subjects.values())
    gold = answers["gold"]
    return {
        "questions": len(answers),
        "micro": _with_interval(pooled(values), answers, right),
        "macro": _macro(values, answers, right),
        "categories": {
            name: _grouped(answers, right, subjects, grouping) for name, grouping in GROUPINGS.items()
        },
        "uncategorised": _uncategorised(answers, right, subjects),
        "by_subject": {
            name: _with_interval(found, *_part(answers, right, answers["subject"] == name))
            for name, found in subjects.items()
        },
        "always": {letter: float((gold == k).mean()) for k, letter in enumerate(LETTERS)},
        "shots": {str(n): int(count) for n, count in answers["shots"].value_counts().items()},
        "shortened": int(answers["shortened"].sum()),
        "mass": float(answers["mass"].mean()),
        "calibration_error": calibration_error(answers[PROBABILITIES].max(axis=1), right),
    }


def _part(answers: pd.DataFrame, right: pd.Series, mask: pd.Series):
    return answers[mask], right[mask]


def _clusters(answers: pd.DataFrame) -> np.ndarray:
    """The clusters that a bootstrap draws: subjects, or single questions if there is one subject."""
    codes, names = pd.factorize(answers["subject"])
    return codes if len(names) > 1 else np.arange(len(answers))


def _with_interval(found: dict[str, Any], answers: pd.DataFrame, right: pd.Series) -> dict[str, Any]:
    interval = None
    if len(answers) > 1:
        interval = list(accuracy_interval(right, _clusters(answers))[1:])
    return found | {"interval": interval}


def _macro(values: Sequence[Mapping[str, Any]], answers: pd.DataFrame, right: pd.Series):
    """The mean of the subjects' accuracies; its stderr treats them as independent means."""
    shares = [found["accuracy"] for found in values]
    found = {
        "accuracy": sum(shares) / len(shares),
        "stderr": math.sqrt(sum(found["stderr"] ** 2 for found in values)) / len(values),
        "subjects": len(shares),
    }
    _, low, high = cluster_bootstrap(shares, np.arange(len(shares)))
    if len(shares) == 1 or high - low <= DEGENERATE:  # equal to the accuracy over all questions
        return _with_interval(found, answers, right)
    return found | {"interval": [low, high]}


def _grouped(answers, right, subjects, grouping: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`pooled` with an interval, for each category with answers, in the grouping's order."""
    category = answers["subject"].map(grouping)
    asked = set(category.dropna())
    return {
        name: _with_interval(
            pooled([found for subject, found in subjects.items() if grouping.get(subject) == name]),
            *_part(answers, right, category == name),
        )
        for name in dict.fromkeys(grouping.values())
        if name in asked
    }


def _uncategorised(answers, right, subjects) -> dict[str, Any] | None:
    outside = [name for name in subjects if name not in HARNESS]
    if not outside:
        return None
    part = _part(answers, right, answers["subject"].isin(outside))
    return _with_interval(pooled([subjects[name] for name in outside]), *part) | {"names": outside}


def differences(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """The accuracy of `second` minus that of `first` on the same questions: overall, by category and by
    subject.

    Differences are paired by question. For the effect of tuning, `first` is before and `second` after.
    `p` is the exact McNemar test on the discordant questions, `gained` and `lost`. It treats questions
    as independent; an interval that draws subjects does not. `p_holm` is adjusted for the number of
    subjects tested. Raises UserError if the two did not answer the same questions.
    """
    both = _paired(first, second)
    subject = both["subject"]
    names = sorted(subject.unique(), key=harness_order)
    by_name = {name: _difference(both[subject == name]) for name in names}
    adjusted = holm([found["p"] for found in by_name.values()])
    for found, p in zip(by_name.values(), adjusted, strict=True):
        found["p_holm"] = p
    outside = both[~subject.isin(list(HARNESS))]
    return {
        "overall": _difference(both),
        "macro": _macro_difference(both),
        "categories": {
            name: {
                category: _difference(both[subject.map(grouping) == category])
                for category in dict.fromkeys(grouping.values())
                if (subject.map(grouping) == category).any()
            }
            for name, grouping in GROUPINGS.items()
        },
        "uncategorised": _difference(outside) if len(outside) else None,
        "by_subject": by_name,
        "subjects_tested": len(by_name),
    }


def _paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """{subject, index, first, second}: one row per question, and whether each was right."""
    sides = [
        table[[*KEY, "gold"]].assign(right=table["prediction"] == table["gold"])
        for table in (first, second)
    ]
    both = sides[0].merge(sides[1], on=[*KEY, "gold"], suffixes=("_first", "_second"))
    if not len(both) == len(first) == len(second):
        raise UserError(
            f"the two models did not answer the same questions: {len(first)} and {len(second)}, "
            f"{len(both)} in common"
        )
    return both.rename(columns={"right_first": "first", "right_second": "second"})


def _difference(both: pd.DataFrame) -> dict[str, Any]:
    first, second = both["first"].to_numpy(), both["second"].to_numpy()
    difference, low, high = difference_interval(first, second, _clusters(both))
    return {
        "difference": difference,
        "interval": None if math.isnan(low) else [low, high],
        "gained": int((second & ~first).sum()),
        "lost": int((first & ~second).sum()),
        "p": mcnemar(first, second),
        "questions": len(both),
        "subjects": int(both["subject"].nunique()),
    }


def _macro_difference(both: pd.DataFrame) -> dict[str, Any]:
    means = both.groupby("subject")[["first", "second"]].mean()
    difference, low, high = paired_bootstrap(means["first"], means["second"], np.arange(len(means)))
    if len(means) == 1 or high - low <= DEGENERATE:  # equal to the difference over all questions
        return {key: _difference(both)[key] for key in ("difference", "interval")}
    return {"difference": difference, "interval": [low, high]}


def scores(
    after: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, Any]:
    """`results` of each model, `differences` of any two models, and of each model before and after
    tuning.

    `after`, `before`: {model: answers}; `before` is None or empty if nothing was tuned.
    """
    before = before or {}
    return {
        "models": {name: results(answers) for name, answers in after.items()},
        "before": {name: results(before[name]) for name in after if name in before},
        "changes": {name: differences(before[name], after[name]) for name in after if name in before},
        "pairs": [
            {"first": first, "second": second} | differences(after[first], after[second])
            for first, second in combinations(after, 2)
        ],
    }
