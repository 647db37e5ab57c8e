"""How PPO reads replies: as they were drawn, together, few at a time, and within memory."""

from dataclasses import replace

import pytest
import torch
from expertchat.engine.loading import load_model
from expertchat.engine.training import Completion, Reader
from expertchat.errors import UserError
from expertchat.policies import shared_backbone
from expertchat.policies.rollout import make_rollout
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.settings.models import Load
from small_policy import GROUPS, SETTINGS, make_trainer, new_adapter


def test_nothing_is_recorded_for_gradients_while_replies_are_drawn(trainer):
    recording: list[bool] = []
    for module in trainer.backbone.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, __, output: recording.append(output.requires_grad))
    trainer.collect_rollout(1)
    assert recording and not any(recording)


def test_the_end_token_that_is_learned_is_the_one_that_was_drawn():
    completions = [Completion([5], "stop", 7), Completion([5, 6], "stop"), Completion([5, 6], "length")]
    rollout = make_rollout([[1, 4]] * 3, completions, 0, "cpu")
    assert rollout.replies.tolist() == [[5, 7], [5, 6], [5, 6]]
    assert rollout.ended.tolist() == [True, True, False]  # the second one by a stop text


def test_replies_that_did_not_end_do_not_move_the_mean_score(trainer):
    rollout = trainer.collect_rollout(0, reference=True)
    scores = torch.arange(len(rollout.ids)).float()
    ended = torch.zeros(len(rollout.ids), dtype=torch.bool)
    ended[[1, 3]] = True
    trainer.collect_rollout = lambda *_, **__: replace(rollout, ended=ended)
    trainer.passes.over = lambda *_: scores
    trainer.measure_reward_statistics()
    assert trainer.state.reward_mean == 2.0 and trainer.state.reward_std == pytest.approx(2**0.5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_is_learned_from_is_what_was_drawn(trainer, temperature):
    trainer.decoding = trainer.decoding.model_copy(update={"temperature": temperature})
    row = trainer.train_step()
    assert 0 < row["drawn_gap"] < 1e-5
    assert row["entropy"] > 0 and row["gradient_norm"] > 0 and row["update_kl"] >= 0


def test_another_text_than_was_drawn_stops_the_run(trainer):
    collect = trainer.collect_rollout

    def changed(*args, **kwargs):
        rollout = collect(*args, **kwargs)
        rollout.ids[:, -rollout.reply_mask.shape[1]] += 1  # the first token of each reply
        return rollout

    trainer.collect_rollout = changed
    with pytest.raises(UserError, match="the log-probability of a drawn token is off by"):
        trainer.train_step()


def test_few_logits_are_in_memory_at_once_and_the_gradient_is_the_same(trainer, monkeypatch):
    rollout = trainer.collect_rollout(1)
    found = {}
    for name, size in (("whole", 1 << 30), ("chunks", 1)):
        monkeypatch.setattr(shared_backbone, "LOGIT_BYTES", size)
        trainer.backbone.model.zero_grad()
        logprobs = trainer.backbone.read(rollout, 1.0).logprobs
        logprobs.sum().backward()
        gradients = [p.grad.clone() for p in trainer.backbone.trainable(False).values()]
        found[name] = (logprobs.detach(), gradients)
    assert torch.allclose(found["whole"][0], found["chunks"][0], atol=1e-6)
    for whole, chunks in zip(found["whole"][1], found["chunks"][1], strict=True):
        assert torch.allclose(whole, chunks, atol=1e-5 * whole.abs().max().item())


def gradient_of(trainer, experience):
    trainer._minibatch_gradient(experience, torch.arange(len(experience.values)))
    return [p.grad.clone() for p in trainer.parameters.values() if p.grad is not None]


def close(first, second, tolerance=1e-4):
    return all(
        torch.allclose(a, b, rtol=0, atol=tolerance * max(a.abs().max().item(), 1e-6))
        for a, b in zip(first, second, strict=True)
    )


def test_memory_that_runs_out_halves_the_rows_and_not_the_gradient(trainer, capsys):
    experience, _ = trainer.make_experience(trainer.collect_rollout(1))
    expected = gradient_of(trainer, experience)
    read, rows = trainer.backbone.read, trainer.passes.batch_size

    def too_large(rollout, temperature, **wanted):
        if len(rollout.ids) > rows // 2:
            raise torch.OutOfMemoryError("no memory")
        return read(rollout, temperature, **wanted)

    trainer.backbone.read = too_large
    sums = trainer._minibatch_update(experience, torch.arange(len(experience.values)))
    assert trainer.passes.batch_size == rows // 2
    assert f"out of memory: going on with {rows // 2} rows at a time" in capsys.readouterr().err
    found = [p.grad for p in trainer.parameters.values() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(expected)
    assert sums["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4) and len(found) == len(expected)


def test_the_gradient_does_not_depend_on_the_rows_at_a_time(trainer):
    experience, _ = trainer.make_experience(trainer.collect_rollout(1))
    expected = gradient_of(trainer, experience)
    trainer.passes.batch_size = 1
    assert close(expected, gradient_of(trainer, experience))


def test_the_entropy_bonus_adds_the_gradient_of_the_entropy(trainer):
    experience, _ = trainer.make_experience(trainer.collect_rollout(1))
    without = gradient_of(trainer, experience)
    trainer.settings = trainer.settings.model_copy(update={"entropy_coefficient": 0.5})
    found = gradient_of(trainer, experience)
    trainer.optimizer.zero_grad(set_to_none=True)
    mask = experience.rollout.reply_mask
    entropies = trainer.backbone.read(experience.rollout, 1.0, entropy=True).entropies
    (-0.5 * entropies[mask].mean()).backward()
    own = [p.grad for n, p in trainer.parameters.items() if not n.startswith("value_head")]
    expected = [a + b for a, b in zip(without, own, strict=False)]
    assert close(expected, found[: len(own)])
    assert (entropies[mask] > 0).all() and not entropies[~mask].any()


def test_memory_that_is_too_small_for_one_row_is_an_error(trainer):
    def never():
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        trainer.passes.within_memory(never)
    assert trainer.passes.batch_size == 1


def test_activations_that_are_computed_again_give_the_same_gradient(model_folder, reward_folder):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        base = load_model(model_folder, Load())
        backbone = SharedBackbone(
            base, new_adapter(base), [reward_folder[0]], gradient_checkpointing=again
        )
        trainer = make_trainer(backbone, model_folder)
        experience, figures = trainer.make_experience(trainer.collect_rollout(1))
        assert figures["drawn_gap"] < 1e-5
        found.append(gradient_of(trainer, experience))
        assert not backbone.model.training
    assert close(*found, tolerance=1e-5)


def test_replies_to_one_context_are_read_together_and_as_if_alone(backbone, model_folder):
    settings = SETTINGS.model_copy(update=GROUPS["grpo"])
    trainer = make_trainer(backbone, model_folder, settings)
    rollout = trainer.collect_rollout(1)
    prompts = rollout.prompt_ids()
    group = settings.replies_per_context
    assert all(prompts[i] == prompts[i - i % group] for i in range(len(prompts)))
    together = backbone.read(rollout, 1.0).logprobs, backbone.scores(rollout)
    backbone.reader = Reader(0, "a test")
    alone = backbone.read(rollout, 1.0).logprobs, backbone.scores(rollout)
    for first, second in zip(together, alone, strict=True):
        assert torch.allclose(first, second, atol=1e-5)
