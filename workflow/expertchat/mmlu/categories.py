"""The groupings of MMLU's 57 subjects.

Hendrycks et al. 2021 (appendix B and the authors' categories.py) have 17 subcategories in four
categories. lm-evaluation-harness has the same four categories, but moves one subject, anatomy, from
other to STEM. A subject that is not one of MMLU's has no category.
"""

from __future__ import annotations

_SUBJECTS = {
    "biology": "college_biology high_school_biology",
    "chemistry": "college_chemistry high_school_chemistry",
    "computer science": "college_computer_science computer_security high_school_computer_science "
    "machine_learning",
    "engineering": "electrical_engineering",
    "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics",
    "physics": "astronomy college_physics conceptual_physics high_school_physics",
    "business": "business_ethics management marketing",
    "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition "
    "professional_medicine virology",
    "other": "global_facts miscellaneous professional_accounting",
    "culture": "human_sexuality sociology",
    "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
    "geography": "high_school_geography",
    "politics": "high_school_government_and_politics public_relations security_studies "
    "us_foreign_policy",
    "psychology": "high_school_psychology professional_psychology",
    "history": "high_school_european_history high_school_us_history high_school_world_history "
    "prehistory",
    "law": "international_law jurisprudence professional_law",
    "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy "
    "world_religions",
}
_SUBCATEGORIES = {
    "stem": ("biology", "chemistry", "computer science", "engineering", "math", "physics"),
    "other": ("business", "health", "other"),
    "social_sciences": ("culture", "economics", "geography", "politics", "psychology"),
    "humanities": ("history", "law", "philosophy"),
}

CATEGORIES = tuple(_SUBCATEGORIES)
"""The four categories, in the harness's order."""

SUBCATEGORIES: dict[str, str] = {s: sub for sub, names in _SUBJECTS.items() for s in names.split()}
"""Hendrycks's 17 subcategories by subject."""

HENDRYCKS: dict[str, str] = {
    subject: category
    for subject, subcategory in SUBCATEGORIES.items()
    for category, members in _SUBCATEGORIES.items()
    if subcategory in members
}
"""Hendrycks's four categories by subject."""

HARNESS: dict[str, str] = HENDRYCKS | {"anatomy": "stem"}
"""lm-evaluation-harness's four categories by subject."""

GROUPINGS: dict[str, dict[str, str]] = {
    "harness": HARNESS,
    "hendrycks": HENDRYCKS,
    "subcategories": SUBCATEGORIES,
}


def harness_order(subject: str) -> tuple[int, str]:
    """Sort key of a subject: the order in which the harness sums subjects, on which the last digits of a
    sum depend. Subjects that are not MMLU's come last."""
    category = HARNESS.get(subject)
    return (len(CATEGORIES) if category is None else CATEGORIES.index(category), subject)
