"""Files that stage policies publishes, beside the folders `adapter` and `tensorboard`."""

STEPS = "steps.parquet"  # figures of each step of PPO
VALUE_HEAD = "value_head.safetensors"
