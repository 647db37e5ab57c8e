"""Stage speeds: how much time and memory a model takes, and which model fits a budget."""
