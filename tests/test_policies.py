"""PPO on a real small model: one backbone, and a resumed run that equals an uninterrupted one."""

import pandas as pd
import pytest
import torch
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.engine.training import Completion, lora_config
from expertchat.policies.ppo import token_logprobs
from expertchat.policies.rollout import make_rollout
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.policies.trainer import PPOTrainer, train
from expertchat.settings.decoding import Decoding
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

SETTINGS = PPO(
    steps=4,
    batch_size=8,
    minibatch_size=4,
    learning_rate=5e-3,
    checkpoint_every=1,
    no_eos_reward=-1.0,
    lora=LoRA(rank=4),
)


@pytest.fixture(scope="module")
def reward_folder(model_folder, tmp_path_factory):
    """A reward model with a random adapter, as stage rewards saves it."""
    torch.manual_seed(1)
    base = load_model(model_folder, Load(), AutoModelForSequenceClassification, num_labels=1)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    model = get_peft_model(base, config)
    folder = tmp_path_factory.mktemp("reward")
    model.save_pretrained(folder)
    return folder, model.eval()


@pytest.fixture
def backbone(model_folder, reward_folder):
    torch.manual_seed(0)
    base = load_model(model_folder, Load())
    return SharedBackbone(base, new_adapter(base), reward_folder[0])


def new_adapter(base):
    return lora_config(SETTINGS.lora, base, "ppo.lora", task_type="CAUSAL_LM")


@pytest.fixture
def trainer(backbone, model_folder):
    return make_trainer(backbone, model_folder)


def make_trainer(backbone, model_folder, settings=SETTINGS, max_new_tokens=8, batch_size=4, score=None):
    tokenizer = load_tokenizer(model_folder, Load())
    prompts = [tokenizer.encode(text) for text in ("Topic: bread.", "Rate A", "I bake", "degrees from")]
    decoding = Decoding(max_new_tokens=max_new_tokens)
    return PPOTrainer(backbone, tokenizer, prompts, settings, decoding, 0, batch_size, score)


def test_the_score_is_that_of_the_saved_reward_model(trainer, reward_folder):
    rollout = trainer.collect_rollout(1)
    scores = trainer.score(rollout)
    alone = reward_folder[1]
    for i, score in enumerate(scores.tolist()):
        ids = rollout.ids[i][rollout.mask[i].bool()].unsqueeze(0)
        alone.config.pad_token_id = None  # one row without padding
        with torch.no_grad():
            assert score == pytest.approx(alone(input_ids=ids).logits.item(), abs=1e-4)


def test_reference_and_new_policy_agree_and_equal_the_base_model(trainer, model_folder):
    rollout = trainer.collect_rollout(1)
    with torch.no_grad():
        logprobs, values = trainer.backbone.logprobs_and_values(rollout, 0.7)
    reference = trainer.backbone.reference_logprobs(rollout, 0.7)
    mask = rollout.reply_mask
    assert torch.allclose(logprobs[mask], reference[mask], atol=1e-5)
    assert not values.any()  # the value head starts at 0
    base = load_model(model_folder, Load())
    row = rollout.ids[0][rollout.mask[0].bool()].unsqueeze(0)
    length = int(mask[0].sum())
    with torch.no_grad():
        logits = base(input_ids=row).logits[:, -length - 1 : -1]
    expected = token_logprobs(logits, row[:, -length:], 0.7)
    assert torch.allclose(expected[0], logprobs[0][mask[0]], atol=1e-4)


def test_only_the_policy_adapter_and_the_value_head_are_trained(trainer):
    names = trainer.backbone.trainable()
    assert names and all("default" in n or n.startswith("value_head") for n in names)
    before = {n: p.detach().clone() for n, p in trainer.backbone.model.named_parameters()}
    trainer.measure_reward_statistics()
    trainer.train_step()
    trainer.train_step()
    changed = {
        n for n, p in trainer.backbone.model.named_parameters() if not torch.equal(p.detach(), before[n])
    }
    assert changed and all(".default." in name for name in changed)


def test_the_first_update_starts_from_ratio_1(trainer):
    experience, figures = trainer.make_experience(trainer.collect_rollout(1))
    again, _ = trainer.backbone.logprobs_and_values(experience.rollout, 1.0)
    mask = experience.rollout.reply_mask
    assert torch.allclose(again[mask], experience.logprobs[mask], atol=1e-5)
    assert figures["kl"] == pytest.approx(0, abs=1e-3)


def test_a_reply_without_an_end_token_gets_the_fixed_score(backbone, model_folder):
    trainer = make_trainer(backbone, model_folder, score=lambda rollout: torch.full((2,), 4.0))
    trainer.state.reward_mean, trainer.state.reward_std = 3.0, 2.0
    completions = [Completion([5, 6], "stop"), Completion([5, 6, 7], "length")]
    rollout = make_rollout([[1, 4], [1, 4, 5]], completions, 2, 0, "cpu")
    assert rollout.reply_mask.sum(1).tolist() == [3, 3]
    assert rollout.replies[0].tolist() == [5, 6, 2] and rollout.ended.tolist() == [True, False]
    experience, figures = trainer.make_experience(rollout)
    finished, unfinished = 4.0 - 3.0, (3.0 + SETTINGS.no_eos_reward * 2.0) - 3.0
    assert figures["score"] == pytest.approx((finished + unfinished) / 2)
    # values are 0 and there is no KL yet, so the return at the last token is the reply's score
    assert experience.returns[:, -1].tolist() == pytest.approx([finished, unfinished], abs=1e-3)


@pytest.mark.slow
def test_ppo_learns_what_is_rewarded(backbone, model_folder, tokenizer):
    """The share of tokens from the vocabulary's lower half is rewarded, and so is ending in time."""
    settings = SETTINGS.model_copy(
        update={
            "steps": 50,
            "learning_rate": 3e-2,
            "batch_size": 32,
            "minibatch_size": 16,
            "kl_coefficient": 0,
        }
    )

    def share_of_low_tokens(rollout):
        low = (rollout.replies < len(tokenizer) // 2) & rollout.reply_mask
        return low.sum(1) / rollout.reply_mask.sum(1)

    trainer = make_trainer(backbone, model_folder, settings, 16, 32, share_of_low_tokens)
    steps = pd.DataFrame([trainer.train_step() for _ in range(20)])
    before, after = steps.head(4).mean(), steps.tail(4).mean()
    assert before["raw_score"] < 0.7 and after["raw_score"] > before["raw_score"] + 0.2
    assert before["ended"] < 0.3 and after["ended"] > 0.9
    assert after["score"] == pytest.approx(after["raw_score"], abs=0.1)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_adapter(model_folder, reward_folder, tmp_path):
    def run(folder, stop_after=None):
        torch.manual_seed(0)
        base = load_model(model_folder, Load())
        backbone = SharedBackbone(base, new_adapter(base), reward_folder[0])
        trainer = make_trainer(backbone, model_folder)
        out = folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        if stop_after is not None:
            save_checkpoint = trainer.save_checkpoint

            def save_and_stop(path):
                save_checkpoint(path)
                if trainer.state.step == stop_after:
                    raise KeyboardInterrupt

            trainer.save_checkpoint = save_and_stop
        train(trainer, "test", folder / "checkpoints", out)
        return load_file(out / "adapter/adapter_model.safetensors"), pd.read_parquet(
            out / "steps.parquet"
        ).drop(columns="seconds")

    weights, steps = run(tmp_path / "uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", stop_after=2)
    resumed_weights, resumed_steps = run(tmp_path / "resumed")
    assert weights.keys() == resumed_weights.keys()
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
    assert resumed_steps.equals(steps) and len(steps) == 4
    assert list((tmp_path / "resumed/out/tensorboard").iterdir())
