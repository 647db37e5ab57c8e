"""What stage instructions hands on: file names."""

TRAIN_FILE, HELD_OUT_FILE = "train.jsonl", "held_out.jsonl"  # {messages}, one conversation per line
COUNTS = "counts.json"  # records, faults and duplicates of each data set
FAULTS = "faults.txt"  # the records that could not be read, one per line
