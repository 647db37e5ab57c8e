"""Stage policies: PPO tunes a model's LoRA adapter on the scores of its reward model.

One PPO step is `trainer.PPOTrainer.train_step`. In order, and where each part is:

1. `PPOTrainer.collect_rollout` samples a reply to each prompt of the step (`rollout.Rollout`).
2. `PPOTrainer.make_experience` evaluates the replies:
   - log-probabilities and values under the policy, log-probabilities under the reference model, and
     the reward model's scores, all from one model (`shared_backbone.SharedBackbone`);
   - `ppo.terminal_scores` normalizes the scores and sets the fixed score of unfinished replies;
   - `ppo.token_rewards` applies the KL penalty to each token and adds the score at the last token;
   - `ppo.advantages_and_returns` computes generalized advantage estimates and returns; with the
     algorithms RLOO and GRPO, which have no values, `ppo.rloo_advantages` or `ppo.grpo_advantages`.
3. `PPOTrainer.update` minimizes `ppo.policy_loss` and, with values, `ppo.value_loss` over minibatches.
4. `PPOTrainer.adapt_kl_coefficient` moves the weight of the KL penalty towards its target.

`running.train` repeats steps and writes checkpoints; `policy.make_policy` is what the script calls.
Where the reward model's scale is 0, it calls `outcome.keep_policy` instead.
"""
