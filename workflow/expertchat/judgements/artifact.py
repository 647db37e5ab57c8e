"""What stage judgements hands on, and the names of those whose replies are compared."""

JUDGEMENTS = "judgements.parquet"  # one row per pair of replies
WINS = "wins.json"  # {judge, kind, pairs: win rates with intervals, ...}

BASE, SFT, TUNED = "base", "sft", "tuned"  # the untouched model, after stage sft, and after PPO
