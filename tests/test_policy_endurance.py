"""What a long run must not change: the frozen base, however often adapters are switched, and memory."""

import gc
import hashlib
from pathlib import Path

import pytest
import small_policy
import torch
from expertchat.policies.shared_backbone import REWARD


def digest(tensors) -> str:
    """A hash of the bytes of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def resident_bytes() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def test_a_thousand_switches_of_adapters_leave_the_base_as_it_is(llama_folder, tmp_path):
    reward = small_policy.make_reward_model(llama_folder, tmp_path / "reward")
    backbone = small_policy.make_backbone(llama_folder, reward)
    trainer = small_policy.make_trainer(backbone, llama_folder)
    frozen = [p for p in backbone.model.parameters() if not p.requires_grad]
    adapter = list(backbone.trainable(False).values())
    before, own = digest(frozen), digest(adapter)
    rollout = trainer.collect_rollout(1)
    scores, reference = backbone.scores(rollout), backbone.reference_logprobs(rollout, 1.0)
    for _ in range(500):
        with backbone._reward_adapter(f"{REWARD}-1"):
            pass
        with backbone.model.disable_adapter():
            pass
    assert digest(frozen) == before and digest(adapter) == own
    assert [p for p in backbone.model.parameters() if p.requires_grad] == adapter
    torch.testing.assert_close(backbone.scores(rollout), scores, rtol=0, atol=0)
    torch.testing.assert_close(backbone.reference_logprobs(rollout, 1.0), reference, rtol=0, atol=0)
    trainer.train_step()
    assert digest(frozen) == before and digest(adapter) != own


@pytest.mark.slow
def test_memory_is_flat_over_500_steps(llama_folder, tmp_path):
    reward = small_policy.make_reward_model(llama_folder, tmp_path / "reward")
    backbone = small_policy.make_backbone(llama_folder, reward)
    settings = small_policy.SETTINGS.model_copy(
        update={"steps": 500, "batch_size": 4, "epochs": 1, "kl_budget": None}
    )
    trainer = small_policy.make_trainer(backbone, llama_folder, settings, batch_size=4)
    trainer.measure_reward_statistics()
    sizes = {}
    for step in range(1, 501):
        trainer.train_step()
        if step in (100, 500):
            sizes[step] = resident_bytes()
    assert sizes[500] - sizes[100] < 8 * 2**20
