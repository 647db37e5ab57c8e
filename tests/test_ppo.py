"""The formulas of PPO against values worked out by hand."""

import math

import pytest
import torch
from expertchat.engine.training import token_logprobs
from expertchat.policies import ppo


def test_gae_of_three_tokens_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 2.0]])
    values = torch.tensor([[0.5, 1.0, 1.5]])
    mask = torch.ones(1, 3)
    # deltas with gamma 0.5: 1 + .5*1 - .5 = 1;  0 + .5*1.5 - 1 = -.25;  2 - 1.5 = .5
    # lambda 0.5: A2 = .5;  A1 = -.25 + .25*.5 = -.125;  A0 = 1 + .25*-.125 = .96875
    advantages, returns = ppo.advantages_and_returns(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages[0].tolist() == pytest.approx([0.96875, -0.125, 0.5])
    assert returns[0].tolist() == pytest.approx([1.46875, 0.875, 2.0])


def test_gae_ignores_padding():
    rewards = torch.tensor([[1.0, 3.0, 99.0]])
    values = torch.tensor([[0.0, 0.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    advantages, _ = ppo.advantages_and_returns(rewards, values, mask, gamma=1.0, lam=1.0)
    assert advantages[0].tolist() == pytest.approx([4.0, 3.0, 0.0])


def test_whitening_gives_mean_0_and_deviation_1_over_the_mask():
    values = torch.tensor([[1.0, 3.0], [100.0, 5.0]])
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    white = ppo.whiten(values, mask)
    # mean 3, variance (4 + 0 + 4) / 3
    assert white[0].tolist() == pytest.approx([-2 / (8 / 3) ** 0.5, 0.0])
    assert white[1].tolist() == pytest.approx([0.0, 2 / (8 / 3) ** 0.5])


def test_terminal_scores_are_relative_to_the_reference_and_fixed_without_an_end_token():
    raw, ended = torch.tensor([4.0, 9.0]), torch.tensor([True, False])
    scores = ppo.terminal_scores(raw, ended, 3.0, 2.0, no_eos_reward=-1.5, standardise=False)
    assert scores.tolist() == pytest.approx([1.0, -3.0])  # 4 - 3;  (3 - 1.5 * 2) - 3
    scores = ppo.terminal_scores(raw, ended, 3.0, 2.0, no_eos_reward=-1.5, standardise=True)
    assert scores.tolist() == pytest.approx([0.5, -1.5])


def test_the_score_is_added_at_the_last_real_token_and_the_kl_penalty_at_every_token():
    kl = torch.tensor([[0.5, 1.0, 7.0], [0.0, 0.0, 2.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = ppo.token_rewards(torch.tensor([10.0, -1.0]), kl, mask, kl_coefficient=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 9.9, 0.0])
    assert rewards[1].tolist() == pytest.approx([0.0, 0.0, -1.2])


def test_logprobs_are_those_of_the_tempered_distribution():
    logits = torch.tensor([[[2.0, 0.0, -2.0]]])
    found = token_logprobs(logits, torch.tensor([[0]]), temperature=2.0)
    expected = torch.log_softmax(torch.tensor([1.0, 0.0, -1.0]), 0)[0]
    assert found.item() == pytest.approx(expected.item())


def test_policy_loss_clips_gains_but_not_losses():
    old = torch.zeros(1, 4)
    logprobs = torch.log(torch.tensor([[1.5, 0.5, 1.5, 0.5]]))
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    loss, clipped = ppo.policy_loss(logprobs, old, advantages, clip_range=0.2)
    assert loss[0].tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert clipped[0].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_value_loss_takes_the_larger_of_clipped_and_unclipped():
    values, old, returns = torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    # unclipped: 0; clipped to 0.2: (0.2 - 1)^2 / 2 = 0.32
    loss, clipped = ppo.value_loss(values, old, returns, clip_range=0.2)
    assert loss.item() == pytest.approx(0.32) and clipped.item() == 1


def test_kl_coefficient_moves_towards_its_target_by_a_bounded_step():
    assert ppo.next_kl_coefficient(0.1, kl=12, target=6, horizon=1000, replies=100) == pytest.approx(
        0.102
    )
    assert ppo.next_kl_coefficient(0.1, kl=0, target=6, horizon=1000, replies=100) == pytest.approx(
        0.098
    )
    assert ppo.next_kl_coefficient(0.1, kl=6, target=6, horizon=1000, replies=100) == pytest.approx(0.1)


def test_advantages_within_a_group_by_hand():
    returns = torch.tensor([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    assert ppo.rloo_advantages(returns, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]
    deviation = 7**0.5  # of 1, 2 and 6 around 3: (4 + 1 + 9) / 2
    expected = [-2 / deviation, -1 / deviation, 3 / deviation, 0, 0, 0]
    none = torch.zeros(6)
    assert ppo.grpo_advantages(returns, none, 3).tolist() == pytest.approx(expected, abs=1e-3)
    penalties = torch.tensor([0.0, 0.0, 0.0, 0.1, 0.2, 0.3])  # not scaled where the scores are equal
    costs = ppo.grpo_advantages(returns, penalties, 3)[3:]
    assert costs.tolist() == pytest.approx([0.1, 0.0, -0.1], abs=1e-6)


def test_the_figures_of_an_update_by_hand():
    old = torch.log(torch.tensor([[0.5, 0.5]]))
    new = torch.log(torch.tensor([[0.25, 0.5]]))
    assert ppo.update_kl(new, old).tolist()[0] == pytest.approx([0.5 - 1 + math.log(2), 0.0])
    returns, mask = torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert ppo.explained_variance(returns, returns, mask) == 1
    assert ppo.explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0)
    assert ppo.explained_variance(returns, torch.ones(1, 3), mask) == 0


def test_tokens_beyond_the_target_cost_something():
    assert ppo.length_penalty(torch.tensor([3, 5, 9]), 0.5, 5).tolist() == [0.0, 0.0, 2.0]
