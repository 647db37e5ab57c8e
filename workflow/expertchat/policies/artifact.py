"""Files that stage policies publishes, beside the folders `adapter` and `tensorboard`."""

OUTCOME = "outcome.json"  # {tuned, steps, reason}: whether PPO ran, and if not, why
STEPS = "steps.parquet"  # figures of each step of PPO; no rows if it did not run
VALUE_HEAD = "value_head.safetensors"
# Without PPO, the policy is that of the round before, or the base model, which has no folder `adapter`.

UNSUPPORTED = (
    "the reward model's scale is 0, as its scores do not predict which reply is better on topics it was "
    "not trained on"
)
"""The reason why PPO does not run."""

STEP_TYPES = {
    "step": "int64",
    "score": "float64",
    "raw_score": "float64",
    "extra_reward": "float64",
    "length_penalty": "float64",
    "kl": "float64",
    "kl_coefficient": "float64",
    "ended": "float64",
    "reply_tokens": "float64",
    "drawn_gap": "float64",
    "entropy": "float64",
    "explained_variance": "float64",
    "advantage_std": "float64",
    "learning_rate": "float64",
    "policy_loss": "float64",
    "value_loss": "float64",
    "clipped": "float64",
    "value_clipped": "float64",
    "update_kl": "float64",
    "gradient_norm": "float64",
    "tokens": "int64",
}
"""The columns of STEPS and their types."""
