"""Training by contexts is training on pairs: the same loss and gradients, with fewer tokens read."""

import numpy as np
import pytest
import torch
from conftest import save_random_model
from datasets import Dataset
from disk_use import disk_use
from expertchat import checkpoints
from expertchat.console import progress_bar
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.engine.training import Completion, Reader, lora_config
from expertchat.errors import UserError
from expertchat.policies.rollout import make_rollout
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.rewards import ensemble
from expertchat.rewards.ensemble import cross_fit, score_candidates
from expertchat.rewards.evaluation import evaluate
from expertchat.rewards.length_head import correlation, length_loss, overlap
from expertchat.rewards.scoring import candidate_scores, score_head
from expertchat.rewards.training import (
    PairTrainer,
    group_pairs,
    load_reward_model,
    pair_losses,
    tokens_to_train,
    train,
)
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.rewards import LengthHead, Rewards
from transformers import TrainingArguments
from trl import RewardConfig, RewardTrainer

pytestmark = pytest.mark.slow

# two contexts; the prompt of the first is 10 to 14, that of the second 20 to 22
ENCODED = {
    "a0": [10, 11, 12, 13, 14, 30, 31, 2],
    "a1": [10, 11, 12, 13, 14, 40, 2],
    "a2": [10, 11, 12, 13, 14, 30, 50, 51, 52, 2],
    "a3": [10, 11, 12, 13, 14, 40, 2],  # the same text as a1
    "b0": [20, 21, 22, 60, 2],
    "b1": [20, 21, 22, 2],
}
LENGTHS = {name: len(row) - (5 if name[0] == "a" else 3) for name, row in ENCODED.items()}
PAIRS = [
    {"context_id": c, "chosen": first, "rejected": second, "topic_id": c}
    for c, first, second in (("a", "a0", "a1"), ("a", "a2", "a1"), ("b", "b1", "b0"), ("a", "a0", "a3"))
]


def five_contexts():
    """Five contexts: an uneven number of shares and of batches."""
    names = [f"{first}{number}" for number in range(5) for first in "xyz"]
    encoded = {name: [10 + int(name[1]), 11, 12, 30 + 3 * i, 40, 2] for i, name in enumerate(names)}
    pairs = [
        {"context_id": name[1], "chosen": name, "rejected": f"{other}{name[1]}", "topic_id": name[1]}
        for name in names
        for other in "yz"
        if other > name[0]
    ]
    return group_pairs(pairs, encoded, {name: 3 + i % 4 for i, name in enumerate(names)})


SETTINGS = Rewards(learning_rate=1e-2, epochs=2, batch_size=2, lora=LoRA(rank=4))
BAR = {"label": "test", "unit": "tokens"}


def reward_of(folder, settings=SETTINGS):
    pad = load_tokenizer(folder, Load()).pad_token_id
    reward = load_reward_model(folder, Load(), pad, settings)
    reward.begin(0)
    return reward


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_equal_candidates_are_one_row_and_pairs_keep_their_order():
    first, second = group_pairs(PAIRS, ENCODED, LENGTHS)
    assert first.candidates == {"a0": 0, "a1": 1, "a2": 2, "a3": 1}
    assert (first.chosen, first.rejected) == ([0, 2, 0], [1, 1, 1])
    assert second.rows == [ENCODED["b1"], ENCODED["b0"]]


def test_loss_and_gradients_are_those_of_trl_on_the_same_pairs(model_folder, tmp_path):
    reward = reward_of(model_folder)
    assert reward.reader.whole is None
    rows = [{"chosen_ids": ENCODED[p["chosen"]], "rejected_ids": ENCODED[p["rejected"]]} for p in PAIRS]
    arguments = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    reference = RewardTrainer(
        model=reward.model,
        args=RewardConfig(**arguments, max_length=None, bf16=False, gradient_checkpointing=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(model_folder, Load()),
    )
    expected_loss = reference.compute_loss(reward.model.train(), reference.data_collator(rows))
    expected_loss.backward()
    expected = gradients(reward.model)
    reward.model.zero_grad()

    trainer = PairTrainer(
        reward.reader,
        progress_bar(100, **BAR),
        100,
        model=reward.model,
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=[],
    )
    loss = trainer.training_step(reward.model, {"contexts": group_pairs(PAIRS, ENCODED, LENGTHS)})
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-5)
    found = gradients(reward.model)
    assert found.keys() == expected.keys() and any("lora_B" in name for name in found)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-5 * max(1, largest)), name


def test_the_tokens_of_a_context_are_its_prompt_once_and_its_replies():
    prompt, replies = list(range(250)), [[i] * 60 for i in range(300, 304)]
    rows = {f"c{i}": prompt + reply for i, reply in enumerate(replies)}
    pairs = [
        {"context_id": "c", "chosen": f"c{i}", "rejected": f"c{j}"}
        for i, j in ((0, 1), (0, 2), (0, 3), (1, 3))
    ]
    contexts = group_pairs(pairs, rows, LENGTHS | dict.fromkeys(rows, 60))
    assert tokens_to_train(contexts, Reader(0), 1) == 250 + 4 * 60  # by pairs: 8 * 310
    assert tokens_to_train(contexts, Reader(0, "any reason"), 1) == 4 * 310


def test_a_model_with_a_window_reads_complete_replies_and_scores_them_alike(tokenizer, tmp_path, capsys):
    folder = save_random_model("mistral", tokenizer, tmp_path / "m", sliding_window=4)
    reward = reward_of(folder)
    assert "complete text" in reward.reader.whole
    assert reward.reader.whole in capsys.readouterr().err
    rows = [ENCODED["a0"], ENCODED["a2"]]
    with torch.no_grad():
        together = candidate_scores(reward.model, rows, reward.reader).squeeze(1)
        alone = [candidate_scores(reward.model, [row], reward.reader).item() for row in rows]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def halves():
    first, second = group_pairs(PAIRS, ENCODED, LENGTHS)
    return [([second], [first]), ([first], [second])]


class Counter:
    """A progress bar that only counts."""

    def __init__(self):
        self.tokens = 0

    def update(self, tokens):
        self.tokens += tokens

    def set_postfix_str(self, text, refresh=True):
        pass


def test_a_killed_job_does_not_train_finished_folds_again(llama_folder, tmp_path, monkeypatch):
    trained = []
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    bar = Counter()
    expected, logs = cross_fit(reward_of(llama_folder), halves(), SETTINGS, 0, whole, bar)
    assert expected.keys() == ENCODED.keys() and len(logs) == 2
    reader = reward_of(llama_folder).reader
    total = sum(tokens_to_train(a, reader, 2) + tokens_to_train(b, reader, 1) for a, b in halves())
    assert bar.tokens == total

    def train_once(reward, contexts, *rest):
        trained.append(len(trained))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(reward, contexts, *rest)

    monkeypatch.setattr(ensemble, "train", train_once)
    with pytest.raises(KeyboardInterrupt):
        cross_fit(reward_of(llama_folder), halves(), SETTINGS, 0, broken, Counter())
    bar = Counter()
    resumed, _ = cross_fit(reward_of(llama_folder), halves(), SETTINGS, 0, broken, bar)
    assert len(trained) == 3, "only the second fold is trained again"
    assert resumed == expected and bar.tokens == total


@pytest.mark.parametrize("after", [1, 3])
def test_training_that_was_killed_goes_on_from_its_checkpoint(
    llama_folder, tmp_path, monkeypatch, after
):
    contexts = [context for half, _ in halves() for context in half]
    settings = SETTINGS.model_copy(update={"epochs": 4})
    whole = reward_of(llama_folder, settings)
    log = train(whole, contexts, settings, 0, tmp_path / "whole", Counter())
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert all(set(entry) >= {"loss", "accuracy"} and "train_runtime" not in entry for entry in log)

    class Stops(Counter):
        def set_postfix_str(self, text, refresh=True):
            if text.startswith("loss"):
                self.logged = getattr(self, "logged", 0) + 1
            if getattr(self, "logged", 0) > after:
                raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)  # after every step
    broken = reward_of(llama_folder, settings)
    with pytest.raises(KeyboardInterrupt):
        train(broken, contexts, settings, 0, tmp_path / "broken", Stops())
    saved = checkpoints.Checkpoints(tmp_path / "broken/steps")
    assert saved.names()[-1] == checkpoints.numbered(after)
    resumed = reward_of(llama_folder, settings)
    assert train(resumed, contexts, settings, 0, tmp_path / "broken", Counter()) == log
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, dict(whole.model.named_parameters())[name]), name


def test_many_resumes_take_no_more_room_than_few(llama_folder, tmp_path, monkeypatch):
    contexts = [context for half, _ in halves() for context in half]
    settings = SETTINGS.model_copy(update={"epochs": 4})
    reward = reward_of(llama_folder, settings)

    class Stops(Counter):
        def __init__(self, after):
            super().__init__()
            self.after = after

        def set_postfix_str(self, text, refresh=True):
            self.after -= text.startswith("loss")
            if self.after <= 0:
                raise KeyboardInterrupt

    def use_after(times, steps=1):
        for _ in range(times):
            with pytest.raises(KeyboardInterrupt):
                train(reward, contexts, settings, 0, tmp_path, Stops(steps))
        return disk_use(tmp_path)

    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)  # after every step
    use_after(1, 3)
    monkeypatch.setattr(checkpoints, "INTERVAL", 1e9)
    few = use_after(3)
    assert checkpoints.Checkpoints(tmp_path / "steps").names()
    assert use_after(9) == few  # also after 500, which takes minutes


def test_folds_start_from_the_same_weights(llama_folder, tmp_path):
    """So that the order of the folds does not matter."""
    forward, backward = tmp_path / "a", tmp_path / "b"
    forward.mkdir()
    backward.mkdir()
    first, _ = cross_fit(reward_of(llama_folder), halves(), SETTINGS, 0, forward, Counter())
    second, _ = cross_fit(reward_of(llama_folder), halves()[::-1], SETTINGS, 0, backward, Counter())
    assert first == second


def test_adapters_on_the_last_layers_only_need_no_gradient_below(llama_folder, tmp_path):
    lora = LoRA(rank=4, layers=1)
    reward = reward_of(llama_folder, SETTINGS.model_copy(update={"lora": lora}))
    layers = {name.split(".layers.")[1][0] for name in reward.trained if ".layers." in name}
    assert layers == {"1"}  # of layers 0 and 1
    contexts = group_pairs(PAIRS, ENCODED, LENGTHS)
    train(reward, contexts, SETTINGS, 0, tmp_path / "run", Counter())
    reward.model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        score = candidate_scores(reward.model, [ENCODED["a0"]], reward.reader).item()
    assert score != 0
    base = load_model(llama_folder, Load())
    policy = lora_config(lora, base, "ppo.lora", "the model", task_type="CAUSAL_LM")
    backbone = SharedBackbone(base, policy, [tmp_path / "adapter"])
    rollout = make_rollout([ENCODED["a0"][:5]], [Completion(ENCODED["a0"][5:-1], "stop", 2)], 0, "cpu")
    assert backbone.scores(rollout).item() == pytest.approx(score, abs=1e-4)


def test_more_layers_than_there_are_is_one_sentence(llama_folder):
    with pytest.raises(UserError, match=r"rewards\.lora\.layers: 3; .* 2 layers: use at most that"):
        reward_of(llama_folder, SETTINGS.model_copy(update={"lora": LoRA(layers=3)}))


def test_correlation_by_hand():
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 9.0])
    # deviations -1 0 1 and -3 -1 4: 7 / sqrt(2 * 26)
    assert correlation(x, y).item() == pytest.approx(7 / 52**0.5)
    assert correlation(x, torch.ones(3)).item() == 0
    scores = torch.stack([torch.tensor([5.0, 5.0, 5.0]), y], 1)
    assert length_loss(scores, torch.tensor([2, 4, 9])).item() == pytest.approx(-1)


def test_two_heads_get_the_gradients_of_the_batch(llama_folder, tmp_path):
    """Reading context by context gives what one graph over the whole batch gives."""
    heads = LengthHead(weight=0.7, orthogonality=0.3)
    reward = reward_of(llama_folder, SETTINGS.model_copy(update={"length_head": heads}))
    head = score_head(reward.model)
    torch.nn.init.normal_(head, generator=torch.Generator().manual_seed(1))
    contexts = group_pairs(PAIRS, ENCODED, LENGTHS)

    reward.model.train()
    parts = [candidate_scores(reward.model, c.rows, reward.reader) for c in contexts]
    losses = torch.cat([pair_losses(p.sum(1), c) for p, c in zip(parts, contexts, strict=True)])
    lengths = torch.tensor([n for c in contexts for n in c.lengths])
    loss = losses.mean() + 0.7 * length_loss(torch.cat(parts), lengths) + 0.3 * overlap(head)
    loss.backward()
    expected = gradients(reward.model)
    reward.model.zero_grad()

    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False
    )
    trainer = PairTrainer(
        reward.reader,
        progress_bar(100, **BAR),
        100,
        heads,
        model=reward.model,
        args=arguments,
        train_dataset=[],
    )
    found_loss = trainer.training_step(reward.model, {"contexts": contexts})
    assert found_loss.item() == pytest.approx(loss.item(), abs=1e-5)
    found = gradients(reward.model)
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-5 * max(1, largest)), name


def test_a_length_head_takes_length_out_of_the_score(llama_folder, tmp_path):
    """The longer reply is always the better one; the head of quality is left with little of that."""
    generator = np.random.default_rng(0)
    rows, lengths, pairs = {}, {}, []
    for i in range(24):
        prompt = generator.integers(10, 60, 4).tolist()
        for role, extra in (("chosen", 6), ("rejected", 0)):
            reply = generator.integers(10, 60, 2 + extra + generator.integers(3)).tolist()
            rows[f"{i}/{role}"], lengths[f"{i}/{role}"] = [*prompt, *reply, 2], len(reply) + 1
        ids = {role: f"{i}/{role}" for role in ("chosen", "rejected")}
        pairs.append({"context_id": str(i), "topic_id": str(i), **ids})
    found = {}
    for name, heads in (("one", None), ("two", LengthHead())):
        changed = {"length_head": heads, "epochs": 12, "batch_size": 8}
        settings = SETTINGS.model_copy(update=changed)
        reward = reward_of(llama_folder, settings)
        contexts = group_pairs(pairs, rows, lengths)
        train(reward, contexts, settings, 0, tmp_path / name, Counter())
        scores = score_candidates(reward, contexts, Counter())
        found[name] = evaluate(pairs, scores, lengths)["length_correlation"]
    assert found["one"] > 0.9 and abs(found["two"]) < 0.5
