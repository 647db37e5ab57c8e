"""Files that stage mmlu publishes, beside results-<model>.json for each model."""

SCORES = "scores.json"  # accuracies, intervals and paired differences
