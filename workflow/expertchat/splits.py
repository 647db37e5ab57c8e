"""The splits of topics and of multiple-choice questions."""

TRAIN, HELD_OUT = "train", "held_out"  # of topics, and of all that is said about them
DEV, VAL, TEST = "dev", "val", "test"  # of questions: shown solved, to fit mixtures, to measure
SPLITS = (DEV, VAL, TEST)
