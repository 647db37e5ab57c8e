"""Stage questions: multiple-choice questions in MMLU's layout."""
