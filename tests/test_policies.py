"""PPO on a real small model: one backbone, and a resumed run that equals an uninterrupted one."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from disk_use import disk_use
from expertchat.chat import reply_end
from expertchat.checkpoints import Checkpoints, numbered
from expertchat.contexts import OpenContext
from expertchat.engine.loading import load_model
from expertchat.engine.training import Completion, save_adapter, token_logprobs
from expertchat.errors import UserError
from expertchat.pipeline.jobs import Job
from expertchat.pipeline.recipes import Recipe, load_runtime
from expertchat.policies import ppo
from expertchat.policies.outcome import keep_policy, reason_against_tuning
from expertchat.policies.policy import make_policy
from expertchat.policies.rollout import make_rollout, spoken_ids
from expertchat.policies.running import train
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.records import read_json, write_json
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from small_policy import GROUPS, SETTINGS, make_backbone, make_trainer, new_adapter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification


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
        reading = trainer.backbone.read(rollout, 0.7)
    logprobs = reading.logprobs
    reference = trainer.backbone.reference_logprobs(rollout, 0.7)
    mask = rollout.reply_mask
    assert torch.allclose(logprobs[mask], reference[mask], atol=1e-5)
    assert not reading.values.any()  # the value head starts at 0
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
    again = trainer.backbone.read(experience.rollout, 1.0).logprobs
    mask = experience.rollout.reply_mask
    assert torch.allclose(again[mask], experience.logprobs[mask], atol=1e-5)
    assert figures["kl"] == pytest.approx(0, abs=1e-3)


def as_drawn(trainer, rollout):
    """The rollout with the log-probabilities that its tokens would have been drawn with."""
    with torch.no_grad():
        logprobs = trainer.backbone.read(rollout, trainer.decoding.temperature).logprobs
    return replace(rollout, drawn_logprobs=logprobs)


def test_a_reply_without_an_end_token_gets_the_fixed_score(backbone, model_folder):
    trainer = make_trainer(backbone, model_folder, score=lambda rollout: torch.full((2,), 4.0))
    trainer.state.reward_mean, trainer.state.reward_std = 3.0, 2.0
    completions = [Completion([5, 6], "stop", 2), Completion([5, 6, 7], "length")]
    rollout = as_drawn(trainer, make_rollout([[1, 4], [1, 4, 5]], completions, 0, "cpu"))
    assert rollout.reply_mask.sum(1).tolist() == [3, 3]
    assert rollout.replies[0].tolist() == [5, 6, 2] and rollout.ended.tolist() == [True, False]
    experience, figures = trainer.make_experience(rollout)
    finished, unfinished = 4.0 - 3.0, (3.0 + SETTINGS.no_eos_reward * 2.0) - 3.0
    assert figures["score"] == pytest.approx((finished + unfinished) / 2)
    # values are 0 and there is no KL yet, so the return at the last token is the reply's score
    assert experience.returns[:, -1].tolist() == pytest.approx([finished, unfinished], abs=1e-3)


def test_a_reply_that_a_stop_text_ended_is_learned_as_drawn_and_scored_as_dialogues_have_it(
    trainer, tokenizer
):
    drawn = Completion(tokenizer.encode("rye bread \nUser: more", add_special_tokens=False), "stop")
    spoken = spoken_ids(drawn, ["\nUser:"], tokenizer)
    assert tokenizer.decode(spoken[:-1]) == "rye bread" and spoken[-1] == reply_end(tokenizer)
    rollout = make_rollout([[1, 4]], [drawn], 0, "cpu", [spoken])
    assert rollout.reply_ids() == [drawn.ids] and rollout.ended.all()
    ended = Completion(spoken[:-1], "stop", spoken[-1])
    assert spoken_ids(ended, ["\nUser:"], tokenizer) == spoken
    expected = trainer.score(make_rollout([[1, 4]], [ended], 0, "cpu"))
    assert trainer.score(rollout).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    cut = Completion(drawn.ids, "length")
    assert spoken_ids(cut, ["\nUser:"], tokenizer) == drawn.ids


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_replies_to_one_context_are_compared_without_values(backbone, model_folder, tmp_path, algorithm):
    settings = SETTINGS.model_copy(update={**GROUPS[algorithm], "kl_coefficient": 0, "steps": 1})
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0, 5.0, 5.0, 5.0, 5.0])
    calls = iter(range(99))

    def score(rollout):  # two parts of four rows
        part = next(calls) % 2
        return scores[4 * part : 4 * part + len(rollout.ids)]

    trainer = make_trainer(backbone, model_folder, settings, score=score)
    backbone.value_head = None  # no value is computed
    rollout = trainer.collect_rollout(1)
    prompts = [row[: -rollout.reply_mask.shape[1]].tolist() for row in rollout.ids]
    assert prompts[0] == prompts[1] == prompts[2] == prompts[3] != prompts[4]
    assert len({tuple(row) for row in rollout.replies.tolist()}) > 4  # drawn with seeds of their own
    rollout = replace(rollout, ended=torch.ones(8, dtype=torch.bool))
    experience, _ = trainer.make_experience(rollout)
    first = {"rloo": [-8 / 3, -4 / 3, 0.0, 4.0], "grpo": [-0.9258, -0.4629, 0.0, 1.3887]}[algorithm]
    expected = torch.tensor([*first, 0.0, 0.0, 0.0, 0.0])
    mask = rollout.reply_mask.float()
    assert torch.allclose(experience.advantages, expected[:, None] * mask, atol=1e-3)
    (tmp_path / "out").mkdir()
    train(trainer, "test", tmp_path / "checkpoints", tmp_path / "out")
    assert not list((tmp_path / "out").glob("value_head*"))
    assert not any("value_head" in name for name in trainer.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_policies_learn_what_is_rewarded(backbone, model_folder, tokenizer, algorithm):
    """The share of tokens from the vocabulary's lower half is rewarded, and so is ending in time.

    Without values it takes longer to learn which tokens of a reply were good.
    """
    count = 20 if algorithm == "ppo" else 80
    settings = SETTINGS.model_copy(
        update={
            **GROUPS[algorithm],
            "steps": 50 if algorithm == "ppo" else 160,
            "learning_rate": 3e-2 if algorithm == "ppo" else 1e-2,
            "batch_size": 32,
            "minibatch_size": 16,
            "kl_coefficient": 0,
        }
    )

    def share_of_low_tokens(rollout):
        low = (rollout.replies < len(tokenizer) // 2) & rollout.reply_mask
        return low.sum(1) / rollout.reply_mask.sum(1)

    trainer = make_trainer(backbone, model_folder, settings, 16, 32, share_of_low_tokens)
    steps = pd.DataFrame([trainer.train_step() for _ in range(count)])
    before, after = steps.head(4).mean(), steps.tail(4).mean()
    assert before["raw_score"] < 0.7 and after["raw_score"] > before["raw_score"] + 0.2
    assert before["ended"] < 0.3 and after["ended"] > 0.9
    assert after["score"] == pytest.approx(after["raw_score"], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_resumed_run_ends_with_the_same_adapter(model_folder, reward_folder, tmp_path, algorithm):
    def run(folder, stop_after=None):
        torch.manual_seed(0)
        base = load_model(model_folder, Load())
        backbone = SharedBackbone(base, new_adapter(base), [reward_folder[0]])
        trainer = make_trainer(backbone, model_folder, SETTINGS.model_copy(update=GROUPS[algorithm]))
        out = folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        if stop_after is not None:
            step = trainer.train_step

            def step_and_stop():
                if trainer.state.step == stop_after:
                    raise KeyboardInterrupt
                return step()

            trainer.train_step = step_and_stop
        train(trainer, "test", folder / "checkpoints", out)
        adapter = load_file(out / "adapter/adapter_model.safetensors")
        return adapter, pd.read_parquet(out / "steps.parquet")

    weights, steps = run(tmp_path / "uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", stop_after=2)
    resumed_weights, resumed_steps = run(tmp_path / "resumed")
    assert weights.keys() == resumed_weights.keys()
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
    assert resumed_steps.equals(steps) and len(steps) == 4
    (curves,) = (tmp_path / "resumed/out/tensorboard").iterdir()
    assert curves.read_bytes() == (tmp_path / "uninterrupted/out/tensorboard" / curves.name).read_bytes()
    events = EventAccumulator(str(curves.parent)).Reload()
    assert [event.value for event in events.Scalars("ppo/kl")] == pytest.approx(steps["kl"])
    assert [event.step for event in events.Scalars("ppo/kl")] == list(steps["step"])


def test_many_resumes_take_no_more_room_than_few(trainer, tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    def use_after(times):
        for _ in range(times):
            with pytest.raises(Interrupted):
                train(trainer, "test", tmp_path / "checkpoints", tmp_path / "out")
        return disk_use(tmp_path)

    def interrupt(function, after):
        calls = iter(range(after))

        def call():
            if next(calls, None) is None:
                raise Interrupted
            return function()

        return call

    step = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", interrupt(step, 2))
    use_after(1)
    monkeypatch.setattr(trainer, "train_step", interrupt(step, 0))
    few = use_after(10)
    (log,) = (tmp_path / "checkpoints/tensorboard").iterdir()
    assert [event.step for event in EventAccumulator(str(log)).Reload().Scalars("ppo/kl")] == [0, 1]
    files, size = use_after(490)
    assert files == few[0] and abs(size - few[1]) < 100  # the log has the process's id in its name


@pytest.mark.parametrize("what", ["score of a reply", "loss", "norm of the gradient"])
def test_ppo_stops_at_the_first_number_that_is_not_finite(
    backbone, model_folder, tmp_path, monkeypatch, what
):
    trainer = make_trainer(backbone, model_folder)
    (tmp_path / "out").mkdir()
    calls = {"n": 0}

    def broken(function):
        def call(*arguments, **names):
            result = function(*arguments, **names)
            calls["n"] += trainer.state.step == 2  # in the third step
            if not calls["n"]:
                return result
            if isinstance(result, tuple):
                return tuple(tensor * float("nan") for tensor in result)
            return result * float("nan")

        return call

    if what == "score of a reply":
        trainer.score = broken(trainer.score)
    elif what == "loss":
        monkeypatch.setattr(ppo, "value_loss", broken(ppo.value_loss))
    else:
        clip = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken(clip))
    with pytest.raises(UserError, match=f"step 3 of 4: the {what} is NaN or infinite"):
        train(trainer, "test", tmp_path / "checkpoints", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert Checkpoints(tmp_path / "checkpoints/steps").latest().name == numbered(2)
    assert all(torch.isfinite(p).all() for p in trainer.parameters.values())


def test_batches_of_any_size_give_the_same_experience(backbone, model_folder):
    """Rows lose their padding on both sides, and the results get it back."""
    completions = [
        Completion([5, 6, 7, 8, 9], "length"),
        Completion([], "stop", 2),
        Completion([5], "stop", 2),
    ]
    rollout = make_rollout([[1, 4], [1, 4, 5, 6], [1]], completions, 0, "cpu")
    rollout = as_drawn(make_trainer(backbone, model_folder), rollout)
    assert rollout.rows(torch.tensor([1, 2])).ids.shape == (2, 4 + 2)
    found = {}
    for size in (1, 3):
        trainer = make_trainer(backbone, model_folder, batch_size=size)
        found[size], _ = trainer.make_experience(rollout)
    mask = rollout.reply_mask
    assert torch.allclose(found[1].logprobs[mask], found[3].logprobs[mask], atol=1e-5)
    assert torch.allclose(found[1].returns[mask], found[3].returns[mask], atol=1e-5)
    assert not found[3].logprobs[~mask].any()


def test_float16_is_trained_with_a_scaled_loss_and_without_bfloat16(model_folder, reward_folder):
    """As on GPUs that do not compute bfloat16, here on a CPU."""
    backbone = make_backbone(model_folder, reward_folder, dtype="float16")
    tensors = {**dict(backbone.model.named_parameters()), **dict(backbone.model.named_buffers())}
    assert torch.bfloat16 not in {tensor.dtype for tensor in tensors.values()}
    assert {tensor.dtype for tensor in backbone.trainable().values()} == {torch.float32}
    trainer = make_trainer(backbone, model_folder)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.measure_reward_statistics()
    rows = [trainer.train_step() for _ in range(3)]
    assert trainer.scaler.is_enabled() and trainer.scaler.get_scale() > 1
    assert all(row["gradient_norm"] > 0 and row["drawn_gap"] < 0.1 for row in rows[-1:])
    moved = [name for name, p in trainer.parameters.items() if not torch.equal(p, before[name])]
    assert moved and all(torch.isfinite(p).all() for p in trainer.parameters.values())


def test_the_head_reads_real_reply_tokens_only(backbone):
    completions = [Completion([5, 6, 7, 8, 9], "length"), Completion([5], "stop", 2)]
    rollout = make_rollout([[1, 4], [1, 4, 5, 6]], completions, 0, "cpu")
    seen = []
    head = backbone.model.get_base_model().get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    backbone.read(rollout, 1.0)
    backbone.reference_logprobs(rollout, 1.0)
    hook.remove()
    assert seen == [5 + 2, 5 + 2]  # of 2 rows of 4 + 5 columns


def test_progress_counts_every_pass_over_the_replies(trainer):
    passes = []
    trainer.passes.on_pass = passes.append
    trainer.measure_reward_statistics()
    assert sum(passes) == 2 * 8  # drawn and scored
    passes.clear()
    trainer.train_step()
    assert sum(passes) == (1 + 3 + 2) * 8  # drawn, read by three models, two epochs


@pytest.fixture
def run_policy(llama_folder, tmp_path):
    """Runs stage policies on a reward model with the given scale; returns the artifact's folder."""
    torch.manual_seed(1)
    base = load_model(llama_folder, Load(), AutoModelForSequenceClassification, num_labels=1)
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS", modules_to_save=["score"])
    get_peft_model(base, config).save_pretrained(tmp_path / "reward/adapter")
    contexts = [OpenContext("d/t0", "t", [{"role": "user", "content": "bread"}])]

    def run(name, scale, previous=None):
        write_json(tmp_path / "reward/metrics.json", {"scale": scale, "spread_penalty": 1.0})
        out, checkpoints = tmp_path / name, tmp_path / f"{name}-checkpoints"
        out.mkdir()
        checkpoints.mkdir()
        reason = reason_against_tuning(tmp_path / "reward")
        if reason is not None:
            keep_policy(previous, reason, out)
            return out
        make_policy(
            model_folder=llama_folder,
            load=Load(),
            contexts=contexts,
            reward_model=tmp_path / "reward",
            previous=previous,
            settings=SETTINGS.model_copy(update={"steps": 1}),
            decoding=Decoding(max_new_tokens=4),
            seed=0,
            batch_size=4,
            label="policies",
            checkpoints=checkpoints,
            out=out,
        )
        return out

    return run


@pytest.mark.slow
def test_a_scale_of_0_leaves_the_policy_as_it_was(run_policy, capsys):
    base = run_policy("round-1", 0.0)
    assert not (base / "adapter").exists()
    outcome = read_json(base / "outcome.json")
    assert not outcome["tuned"] and outcome["steps"] == 0
    assert "scale is 0" in outcome["reason"] and f"not tuned: {outcome['reason']}" in (
        capsys.readouterr().err
    )
    tuned = run_policy("round-2", 0.5, previous=base)  # starts from the base model
    assert read_json(tuned / "outcome.json") == {"tuned": True, "steps": 1, "reason": None}
    kept = run_policy("round-3", 0.0, previous=tuned)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (kept / "adapter" / file).read_bytes() == (tuned / "adapter" / file).read_bytes()
    tables = [pd.read_parquet(folder / "steps.parquet") for folder in (base, tuned, kept)]
    assert [len(table) for table in tables] == [0, 1, 0]
    assert all(table.dtypes.equals(tables[1].dtypes) for table in tables)
    assert len(pd.concat(tables)) == 1


def test_an_untuned_policy_is_loaded_as_the_base_model(tmp_path):
    recipe = Recipe(
        stage="replies",
        settings={"load": {"a": Load().recipe_settings()}},
        code="",
        runtime=load_runtime({"a": Load()}),
    )
    job = Job(recipe, tmp_path, tmp_path, tmp_path / "work/checkpoints")
    untuned, tuned = tmp_path / "untuned", tmp_path / "tuned"
    untuned.mkdir()
    (tuned / "adapter").mkdir(parents=True)
    assert job.source("a", tmp_path / "model", untuned).adapter is None
    assert job.source("a", tmp_path / "model", tuned).adapter == tuned / "adapter"
    sources = job.sources(["a", "a"], [tmp_path / "model"] * 2, [untuned, tuned])
    assert [source.adapter for source in sources] == [None, tuned / "adapter"]


def test_an_adapter_is_stored_with_its_layers_in_order(model_folder, tmp_path):
    base = load_model(model_folder, Load())
    names = ["v_proj", "q_proj", "up_proj", "o_proj", "k_proj"]
    save_adapter(get_peft_model(base, LoraConfig(r=2, target_modules=names)), tmp_path / "adapter")
    assert read_json(tmp_path / "adapter/adapter_config.json")["target_modules"] == sorted(names)
    again = PeftModel.from_pretrained(load_model(model_folder, Load()), tmp_path / "adapter")
    assert len(again.peft_config["default"].target_modules) == len(names)
