"""Names and numbers of the mixtures that planning needs; this module imports nothing."""

FOLDS = 5  # of the cross-validation on val

TITLES = {
    "best_single": "best single model",
    "best_by_subject": "best model of each subject",
    "uniform_full": "uniform, full vocabulary",
    "uniform": "uniform",
    "log_linear": "log-linear",
    "majority": "majority vote",
    "temperature": "uniform, at fitted temperatures",
    "confidence": "weighted by confidence",
    "weights": "global weights",
    "category_weights": "weights by category",
    "subject_weights": "weights by subject",
    "question_gate": "gate by question",
    "neighbours": "nearest questions",
    "stacking": "stacking",
    "subject_stacking": "stacking by subject",
}
"""What each method is called in reports, by its name in files and settings; the simplest first."""

ORACLE = "oracle"  # the row for "any model is right", which is not a method

ROW_NAMES = frozenset({*TITLES, *TITLES.values(), ORACLE})
"""Names of the rows of results that are not models. A model that is mixed cannot have one of them."""
