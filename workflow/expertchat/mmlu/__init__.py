"""Stage mmlu: accuracies of the models' answers, before and after tuning."""
