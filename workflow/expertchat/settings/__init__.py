"""Settings: one section a stage, validated before any job starts."""
