"""Names of the splits of topics, of preferences and of multiple-choice questions."""

TRAIN, HELD_OUT = "train", "held_out"  # topics, and the dialogues, replies and ratings about them
JUDGE = "judge"  # preferences that only the judge's reward model is trained on
DEV, VAL, TEST = "dev", "val", "test"  # questions: few-shot examples, fitting of mixtures, evaluation
SPLITS = (DEV, VAL, TEST)
