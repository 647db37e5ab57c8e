"""Stage ratings: models rate what was said, category by category."""
