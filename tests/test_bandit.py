"""Policy optimization where the best policy is known: replies of one token, each with a fixed reward.

Without a KL penalty the best policy earns the largest reward. With the penalty's weight b it is the
reference model's distribution times exp(reward / b), normalized, and its reward minus b times its KL is
b * log E[exp(reward / b)] over the reference model (Ziegler et al. 2019, eq. 2; Rafailov et al. 2023,
eq. 4).
"""

from dataclasses import replace

import pytest
import torch
from expertchat.settings.decoding import Decoding
from small_policy import GROUPS, SETTINGS, make_trainer

pytestmark = pytest.mark.slow

LEARNING = {"learning_rate": 2e-2, "batch_size": 64, "minibatch_size": 32, "steps": 60}


def play(backbone, model_folder, score, **settings):
    """A trainer after its last step. Every reply is one token and counts as ended."""
    settings = SETTINGS.model_copy(update={**LEARNING, "kl_horizon": 10**9, **settings})
    trainer = make_trainer(backbone, model_folder, settings, 1, 64, score)
    trainer.prompts, trainer.decoding = trainer.prompts[:1], Decoding(max_new_tokens=1)
    collect = trainer.collect_rollout

    def ended(number, **which):
        rollout = collect(number, **which)
        return replace(rollout, ended=torch.ones_like(rollout.ended))

    trainer.collect_rollout = ended
    for _ in range(settings.steps):
        trainer.train_step()
    return trainer


@torch.no_grad()
def distributions(trainer):
    """The policy's and the reference model's log-probabilities of every token, both [V]."""
    ids = torch.tensor([trainer.prompts[0]])
    model = trainer.backbone.model
    policy = model(input_ids=ids).logits[0, -1].log_softmax(-1)
    with model.disable_adapter():
        return policy, model(input_ids=ids).logits[0, -1].log_softmax(-1)


def even(tokens):
    """A reward of 1 for every second token, else 0."""
    return (tokens % 2 == 0).float()


def first_token(rollout):
    return even(rollout.replies[:, 0])


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_the_reward_comes_within_5_percent_of_the_largest(backbone, model_folder, algorithm):
    trainer = play(backbone, model_folder, first_token, kl_coefficient=0, **GROUPS[algorithm])
    policy, reference = distributions(trainer)
    rewards = even(torch.arange(len(policy)))
    assert (reference.exp() @ rewards).item() < 0.6
    assert (policy.exp() @ rewards).item() > 0.95


def reachable_rewards(backbone, prompt, weight: float):
    """A reward [V] for each token, so that the best policy at this weight of the penalty is nearly one
    that the model can have: its last hidden state moves at a right angle by 0.3 of its length."""
    model = backbone.model.get_base_model()
    with torch.no_grad():
        state = model.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        move = torch.randn(len(state), generator=torch.Generator().manual_seed(0))
        move -= move @ state / (state @ state) * state
        return weight * model.get_output_embeddings().weight @ (0.3 * state.norm() / move.norm() * move)


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_with_a_kl_penalty_the_policy_approaches_the_known_optimum(backbone, model_folder, algorithm):
    weight, prompt = 0.5, make_trainer(backbone, model_folder).prompts[0]
    rewards = reachable_rewards(backbone, prompt, weight)
    trainer = play(
        backbone,
        model_folder,
        lambda rollout: rewards[rollout.replies[:, 0]],
        kl_coefficient=weight,
        **GROUPS[algorithm],
    )
    policy, reference = distributions(trainer)
    best = weight * torch.logsumexp(reference + rewards / weight, 0).item()
    kl = (policy.exp() * (policy - reference)).sum()
    reached = (policy.exp() @ rewards - weight * kl).item()
    start = (reference.exp() @ rewards).item()
    assert best > start + 0.04
    assert best - 0.05 * (best - start) < reached <= best + 1e-4


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_without_a_reward_the_policy_stays_where_it_is(backbone, model_folder, algorithm):
    trainer = play(
        backbone, model_folder, lambda rollout: torch.zeros(len(rollout.ids)), **GROUPS[algorithm]
    )
    policy, reference = distributions(trainer)
    assert (policy.exp() * (policy - reference)).sum().item() < 0.01
