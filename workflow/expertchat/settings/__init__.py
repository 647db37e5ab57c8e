"""The settings of an experiment: one section per stage, validated before any job starts."""
