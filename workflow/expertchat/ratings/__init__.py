"""Stage ratings: models rate dialogues and candidate replies, category by category."""
