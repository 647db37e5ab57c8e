"""The plan of an experiment, ids of artifacts, the store, and what all jobs have in common."""
