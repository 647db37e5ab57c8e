"""What else makes a score: an extra reward, the length of a reply, and the KL budget."""

import pandas as pd
import pytest
import torch
from expertchat.errors import UserError
from expertchat.policies.extra_reward import extra_rewards, load_reward
from expertchat.policies.running import train
from small_policy import SETTINGS, make_trainer


def test_the_kl_budget_ends_the_run_without_learning_from_the_last_replies(
    backbone, model_folder, tmp_path
):
    settings = SETTINGS.model_copy(update={"kl_budget": 1e-9, "steps": 4})
    trainer = make_trainer(backbone, model_folder, settings)
    trainer.train_step()  # the first replies are the reference's own, up to rounding
    trainer.state.stopped = False
    before = [p.detach().clone() for p in trainer.parameters.values()]
    kl = trainer.make_experience
    trainer.make_experience = lambda rollout: (kl(rollout)[0], kl(rollout)[1] | {"kl": 1.0})
    (tmp_path / "out").mkdir()
    train(trainer, "test", tmp_path / "checkpoints", tmp_path / "out")
    assert trainer.state.stopped and trainer.state.step == 2
    assert all(
        torch.equal(old, new) for old, new in zip(before, trainer.parameters.values(), strict=True)
    )
    steps = pd.read_parquet(tmp_path / "out/steps.parquet")
    assert len(steps) == 1 and steps["learning_rate"].iloc[-1] == 0


def test_an_extra_reward_and_a_penalty_on_length_are_parts_of_the_score(
    backbone, model_folder, tmp_path
):
    path = tmp_path / "mine.py"
    path.write_text("def reward(prompt, reply):\n    return float(len(prompt) > 0)\n")
    changed = {"extra_reward_weight": 3.0, "length_penalty": 0.5, "length_target": 1}
    settings = SETTINGS.model_copy(update=changed)
    trainer = make_trainer(
        backbone, model_folder, settings, score=lambda rollout: torch.zeros(len(rollout.ids))
    )
    trainer.extra = extra_rewards(load_reward(path), trainer.tokenizer)
    rollout = trainer.collect_rollout(1)
    _, figures = trainer.make_experience(rollout)
    assert figures["extra_reward"] == figures["raw_score"] == 3.0
    lengths = rollout.reply_mask.sum(1).float()
    expected = (0.5 * (lengths - 1).clamp(min=0)).mean().item()
    assert figures["length_penalty"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def reward(prompt, reply):\n    return 1 / 0\n", "reward raised ZeroDivisionError"),
        ("def reward(prompt, reply):\n    return float('nan')\n", "reward returned nan"),
        ("def reward(prompt, reply):\n    return 'good'\n", "reward raised ValueError"),
        ("def other():\n    pass\n", "has no function reward(prompt, reply)"),
        ("def reward(:\n", "cannot be run: SyntaxError"),
        ("import nowhere_at_all\n", "cannot be run: ModuleNotFoundError"),
    ],
)
def test_an_extra_reward_that_fails_is_one_sentence(trainer, tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        extra_rewards(load_reward(path), trainer.tokenizer)(trainer.collect_rollout(1))
    assert str(caught.value).startswith("ppo.extra_reward: ") and words in str(caught.value)
