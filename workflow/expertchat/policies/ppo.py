"""PPO, as pure functions of tensors. Shapes: B replies of at most T tokens.

After Schulman et al. 2017 (PPO), Schulman et al. 2016 (GAE), Ziegler et al. 2019 (KL control), with
the details that Huang et al. 2024 found to matter ("The N+ implementation details of RLHF with PPO").
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, T] where `mask` [B, T] is true."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B, T] less their mean, over their standard deviation, both over the mask."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log-probability [B, T] of each token under logits [B, T, V] at the sampling temperature."""
    scaled = logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Rewards [B, T]: a KL penalty a token, and the score [B] at the last real token.

    `kl` [B, T] is logprob minus reference logprob of the drawn tokens (Ziegler et al. 2019, eq. 2).
    """
    rewards = -kl_coefficient * kl * mask
    last = mask.sum(1).long() - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both [B, T] (Schulman et al. 2016, eq. 16).

    The value after the last real token is 0: the episode ends there.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        after = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * after - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, advantages + values


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """(loss, whether clipped), both [B, T] (Schulman et al. 2017, eq. 7, negated)."""
    ratio = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(plain, clipped), (clipped > plain).float()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """Half the squared error [B, T] of values that may move by `clip_range` only."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def next_kl_coefficient(
    coefficient: float, kl: float, target: float, horizon: int, replies: int
) -> float:
    """The adapted weight of the KL penalty (Ziegler et al. 2019, section 2.2).

    `kl` is the mean KL of a reply in nats; the relative error is clipped to 0.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * replies / horizon)
