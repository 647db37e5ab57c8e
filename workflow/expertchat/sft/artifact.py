"""What stage sft hands on: the folder `model`, and a file."""

LOSSES = "losses.json"  # the loss on held-out conversations before and after, counts, and the log
