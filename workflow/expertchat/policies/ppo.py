"""The formulas of PPO and its kin as pure functions of tensors: scores, KL penalty, advantages, losses.

Shapes: B replies of at most T tokens. Sources: Schulman et al. 2017 (PPO), Schulman et al. 2016
(GAE), Ziegler et al. 2019 (KL penalty and its control), the details that Huang et al. 2024 found
to matter ("The N+ implementation details of RLHF with PPO"), Ahmadian et al. 2024 (RLOO) and Shao et
al. 2024 (GRPO).
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, T] over the tokens for which `mask` [B, T] is 1."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B, T] shifted and scaled to mean 0 and standard deviation 1 over the mask."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def terminal_scores(
    raw: Tensor, ended: Tensor, mean: float, std: float, no_eos_reward: float, standardise: bool
) -> Tensor:
    """Scores [B] for the last token of each reply, from the reward model's `raw` scores [B].

    `mean` and `std` are those of the raw scores of the reference model's replies. A reply without an
    end token (`ended` [B] is false) gets the fixed score `mean + no_eos_reward * std` in place of its
    raw score. Then `mean` is subtracted, and with `standardise` the result is divided by `std`.
    """
    scores = torch.where(ended, raw, mean + no_eos_reward * std) - mean
    return scores / max(std, 1e-6) if standardise else scores


def length_penalty(lengths: Tensor, per_token: float, target: int) -> Tensor:
    """What replies of these lengths [B], in tokens, lose: `per_token` for each token beyond `target`."""
    return per_token * (lengths - target).clamp(min=0).float()


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Rewards [B, T]: the KL penalty at every token, plus the score [B] at the last real token.

    `kl` [B, T] is the policy's log-probability minus the reference model's, of the sampled tokens
    (Ziegler et al. 2019, eq. 2).
    """
    rewards = -kl_coefficient * kl * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both [B, T] (Schulman et al. 2016, eq. 16).

    The value after the last real token is 0, because the episode ends there.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        next_value = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, advantages + values


def rloo_advantages(returns: Tensor, group: int) -> Tensor:
    """Advantages [B] of replies whose returns are `returns` [B]; each `group` replies share a context.

    The baseline of a reply is the mean return of the others of its group, so that it is unbiased (Kool
    et al. 2019; Ahmadian et al. 2024, eq. 8).
    """
    grouped = returns.view(-1, group)
    others = (grouped.sum(1, keepdim=True) - grouped) / (group - 1)
    return (grouped - others).flatten()


def grpo_advantages(scores: Tensor, penalties: Tensor, group: int) -> Tensor:
    """Advantages [B] of replies with these scores and KL penalties, both [B]; each `group` replies share
    a context.

    A score is normalised within its group (Shao et al. 2024, section 4.1.2); in a group of equal scores
    that gives 0. The penalty is not scaled, so that in such a group its noise does not become the
    signal; it is compared with the group's mean.
    """
    grouped, costs = scores.view(-1, group), penalties.view(-1, group)
    normalised = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    return (normalised - (costs - costs.mean(1, keepdim=True))).flatten()


def token_entropies(logits: Tensor, temperature: float) -> Tensor:
    """Entropies [N], in nats, of what `logits` [N, V] give at the temperature."""
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    return -(logprobs.exp() * logprobs).sum(-1)


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Clipped policy loss, and 1 for tokens whose loss was clipped; both [B, T].

    Schulman et al. 2017, eq. 7, negated.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(unclipped, clipped), (clipped > unclipped).float()


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error of the values, clipped to within `clip_range` of the old values, and 1
    where the clipped error counts; both [B, T].

    The larger of the clipped and the unclipped error counts.
    """
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    unclipped, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(unclipped, clipped), (clipped > unclipped).float()


def update_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """An estimate [B, T] of the KL of the new from the old policy at tokens that the old one drew.

    It is unbiased, never negative, and has little variance (Schulman 2020, estimator k3).
    """
    log_ratio = logprobs - old_logprobs
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """The share of the returns' variance [B, T] that the values explain: at most 1, 0 for a constant."""
    real = mask > 0
    errors, spread = (returns - values)[real], returns[real]
    variance = spread.var(correction=0)
    return (1 - errors.var(correction=0) / variance).item() if variance > 0 else 0.0


def next_kl_coefficient(
    coefficient: float, kl: float, target: float, horizon: int, replies: int
) -> float:
    """The new weight of the KL penalty after a step (Ziegler et al. 2019, section 2.2).

    `kl` is the mean KL in nats per reply of the step's `replies` replies; `horizon` is the number of
    replies over which the weight adapts. The relative error of `kl` is clipped to plus or minus 0.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * replies / horizon)
