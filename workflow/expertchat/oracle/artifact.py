"""Files that stage oracle publishes."""

COMPARISON = "oracle.json"  # agreement and win rates, per model and round
ITEMS = "items.parquet"  # rated items with their oracle scores
