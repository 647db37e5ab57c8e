"""Stage oracle: the results of the demo compared with its known truth."""
