"""Stage sft: a model is tuned on conversations, and takes the place of the model in all later stages."""
