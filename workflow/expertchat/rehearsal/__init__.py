"""What a rehearsal (setting `shrink`) uses in place of real models and data: families, made-up texts."""
