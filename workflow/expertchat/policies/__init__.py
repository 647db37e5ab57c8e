"""Stage policies: PPO tunes a model's LoRA adapter on its reward model."""
