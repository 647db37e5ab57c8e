"""Files that stage rewards publishes, beside the folder `adapter`."""

PAIRS = "pairs.parquet"  # preference pairs with their scores
METRICS = "metrics.json"  # accuracy, calibration and scale
TRAINING_LOG = "training.json"
