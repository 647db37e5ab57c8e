"""The reward model learns a preference that the ratings contain, and its figures are correct."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import save_random_model
from expertchat.engine.training import Completion, load_model, load_tokenizer, lora_config
from expertchat.errors import UserError
from expertchat.policies.rollout import make_rollout
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.records import write_records
from expertchat.rewards.artifact import adapter_folders
from expertchat.rewards.data import rated_data
from expertchat.rewards.evaluation import evaluate, is_positive, supported_scale, topic_folds
from expertchat.rewards.reward_model import make_reward_model
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.rewards import LengthHead, Rewards
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from reward_scale import CASES, simulate

pytestmark = pytest.mark.slow


def test_figures_worked_out_by_hand():
    pairs = [
        {"chosen": "a", "rejected": "b", "topic_id": "t"},
        {"chosen": "c", "rejected": "d", "topic_id": "u"},
    ]
    found = evaluate(pairs, {"a": 2.0, "b": 0.0, "c": 0.0, "d": 1.0}, {"a": 5, "b": 3, "c": 4, "d": 4})
    assert found["accuracy"] == 0.5 and found["pairs"] == 2
    assert found["length_accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 2)


def test_scores_that_cross_fitted_pairs_support_are_scaled_little():
    generator = np.random.default_rng(0)
    topics = np.repeat(np.arange(12).astype(str), 6)
    logits = generator.normal(size=72) * 3
    right = np.where(generator.random(72) < 1 / (1 + np.exp(-np.abs(logits))), 1, -1)
    assert supported_scale(np.abs(logits) * right, topics) > 0.3
    assert supported_scale(np.abs(logits), topics) == 1.0  # all correct: no reason to shrink
    overconfident = supported_scale(10 * np.abs(logits) * right, topics)
    assert 0.03 < overconfident < 0.2


def test_the_test_of_the_sums_by_hand():
    """The sums of three topics are 1, 2 and 3: mean 2, variance 1, error sqrt(2 * 1 / 3)."""
    topics = ["a", "b", "b", "c"]
    differences = np.array([1.0, 0.5, 1.5, 3.0])
    limit = 4.303 * (2 / 3) ** 0.5  # t distribution with 2 degrees of freedom, 97.5 %
    assert not is_positive(differences, topics)  # 2 < 3.51
    shift = np.array([1, 0.5, 0.5, 1])
    assert is_positive(differences + (limit - 2 + 0.01) * shift, topics)
    assert not is_positive(differences + (limit - 2 - 0.01) * shift, topics)


def test_one_topic_and_wrong_scores_support_nothing():
    assert supported_scale(np.ones(8), ["a"] * 8) == 0
    assert supported_scale(-np.ones(72), np.repeat(np.arange(12), 6).astype(str)) == 0


def test_folds_are_of_whole_topics_and_about_equal():
    topics = [f"t{i % 10}" for i in range(40)]
    folds = topic_folds(topics, 4, seed=0)
    assert folds.keys() == set(topics) and folds == topic_folds(topics[::-1], 4, seed=0)
    assert sorted(list(folds.values()).count(k) for k in range(4)) == [2, 2, 3, 3]
    assert set(topic_folds(["a", "b"], 4, seed=0).values()) == {0, 1}


def passing(case, signal, experiments):
    """The share of simulated experiments with a scale above 0: cross-fitted, and by one split."""
    found = [simulate(case, signal, Rewards().folds, seed) for seed in range(experiments)]
    return [sum(one[key] > 0 for one in found) / experiments for key in ("scale", "split")]


@pytest.mark.parametrize("case", CASES[1:5:2], ids=lambda case: case.name)
def test_random_ratings_seldom_get_a_scale_above_0(case):
    cross_fitted, split = passing(case, 0.0, 400)
    assert cross_fitted <= 0.04  # 2.5 % is wanted; 6 or more of 400 above it are improbable
    assert split > 0.05  # a fifth of the topics is too few for the bootstrap by itself


def test_a_signal_in_20_topics_with_4_pairs_is_kept():
    case = CASES[2]
    assert passing(case, 2 * case.signal, 60)[0] > 0.85
    assert passing(case, case.signal, 60)[0] > 0.45  # accuracy 0.7 on new topics


def artifacts(folder, generator, varied=False):
    """Dialogues and ratings in which replies with the word "good" are rated higher."""
    dialogues, candidates, ratings = [], [], []
    for i in range(40):
        split = "held_out" if i % 4 == 0 else "train"
        name = {"dialogue_id": f"d{i}", "topic_id": f"t{i % 20}", "split": split}
        first = {"speaker": "b", "text": "hello"}
        dialogues.append(
            {
                **name,
                "topic": "bread",
                "subject": "x",
                "speakers": ["b", "a"],
                "models": {"a": "a", "b": "b"},
                "roles": {"a": "speaker", "b": "speaker"},
                "turns": [first],
            }
        )
        for k in range(4):
            word = "good" if k % 2 else "bad"
            more = " indeed" * generator.integers(4) if varied else ""
            text = f"I say {word} {generator.integers(99)}{more}"
            candidate = {"candidate_id": f"d{i}/{k}", "context_id": f"d{i}/t1", **name}
            candidates.append(
                {**candidate, "turn": 1, "speaker": "a", "model": "a", "text": text, "tokens": 5}
            )
            ratings.append(
                {
                    "rater": "b",
                    "ratee": "a",
                    "model": "a",
                    "relation": "partner",
                    "canary": "",
                    "scope": "reply",
                    "item_id": f"d{i}/{k}",
                    "topic_id": name["topic_id"],
                    "split": split,
                    "category": "c",
                    "score": 3.0 + 4 * (k % 2) + generator.normal() * 0.1,
                    "valid_mass": 0.9,
                }
            )
    write_records(folder / "dialogues.jsonl", dialogues)
    write_records(folder / "candidates.jsonl", candidates)
    pd.DataFrame(ratings).to_parquet(folder / "ratings.parquet")


SETTINGS = Rewards(learning_rate=5e-3, epochs=4, batch_size=2, lora=LoRA(rank=4))


def train(model_folder, folder, shuffled, changed=None, rated=None, **load):
    """The metrics of a reward model on the artifacts in `rated`, by default in `folder`."""
    rated = rated or folder
    for name in ("checkpoints", "out"):
        (folder / name).mkdir(exist_ok=True)
    settings = SETTINGS.model_copy(update=changed or {})
    tokenizer = load_tokenizer(model_folder, Load(**load))
    data = rated_data(
        tokenizer,
        dialogues=[rated],
        ratings=[rated],
        speaker="a",
        weights={"c": 1.0},
        min_valid_mass=0.5,
        texts={"speaker": "{{ topic }}", "opening": "begin"},
        settings=settings,
        shuffled=shuffled,
        seed=0,
    )
    return make_reward_model(
        model_folder=model_folder,
        load=Load(**load),
        tokenizer=tokenizer,
        data=data,
        speaker="a",
        settings=settings,
        shuffled=shuffled,
        seed=0,
        checkpoints=folder / "checkpoints",
        out=folder / "out",
    )


def test_without_usable_ratings_the_message_names_the_mass_and_what_helps(llama_folder, tmp_path):
    artifacts(tmp_path, np.random.default_rng(0))
    table = pd.read_parquet(tmp_path / "ratings.parquet")
    table.assign(valid_mass=0.25).to_parquet(tmp_path / "ratings.parquet")
    with pytest.raises(UserError) as caught:
        train(llama_folder, tmp_path, shuffled=False)
    message = str(caught.value)
    assert "ratings by b are below ratings.min_valid_mass: 0.5" in message
    assert "its mean probability of valid scores is 0.25" in message and "{% block reply %}" in message
    assert "min_margin" not in message


def test_a_preference_in_the_ratings_is_learned(llama_folder, tmp_path):
    artifacts(tmp_path, np.random.default_rng(0))
    metrics = train(llama_folder, tmp_path, shuffled=False)
    assert metrics["held_out"]["accuracy"] > 0.9
    assert metrics["scale"] > 0.5
    assert metrics["held_out"]["fates"]["kept"] == metrics["held_out"]["pairs"]
    assert metrics["cross_fitted"]["accuracy"] > 0.8 and metrics["folds"] == 4
    assert metrics["cross_fitted"]["pairs"] == metrics["training"]["pairs"]
    table = pd.read_parquet(tmp_path / "out/pairs.parquet")
    assert table.groupby("split").size().to_dict() == {
        "held_out": metrics["held_out"]["pairs"],
        "train": metrics["cross_fitted"]["pairs"],
    }
    assert json.loads((tmp_path / "out/metrics.json").read_text())["speaker"] == "a"
    names = {p.name for p in (tmp_path / "out/adapter").iterdir()}
    assert "adapter_model.safetensors" in names and not any(n.endswith(".bin") for n in names)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_mixtral_learns_a_preference(dtype, tokenizer, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 64}
    folder = save_random_model("mixtral", tokenizer, tmp_path / "m", **sizes)
    artifacts(tmp_path, np.random.default_rng(0))
    metrics = train(folder, tmp_path, shuffled=False, quantization="nf4", dtype=dtype)
    assert metrics["held_out"]["accuracy"] > 0.9


def test_replies_after_the_limit_of_longrope_are_refused(tokenizer, tmp_path):
    """A batch would rotate the shorter ones by the factors of the longer ones."""
    limit = {"original_max_position_embeddings": 4, "tie_word_embeddings": False, "sliding_window": None}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
    }
    folder = save_random_model("phi3", tokenizer, tmp_path / "m", rope_parameters=rope, **limit)
    artifacts(tmp_path, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"after 4 the model changes its rotary factors \(LongRoPE\)"):
        train(folder, tmp_path, shuffled=False)


def test_shuffled_ratings_teach_nothing(llama_folder, tmp_path):
    artifacts(tmp_path, np.random.default_rng(0))
    metrics = train(llama_folder, tmp_path, shuffled=True)
    assert metrics["shuffled"] and metrics["held_out"]["accuracy"] < 0.8
    assert metrics["scale"] == 0
    saved = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
    assert not next(weights for name, weights in saved.items() if "score" in name).any()


def test_an_ensemble_has_an_adapter_a_member_and_ppo_combines_them(llama_folder, tmp_path):
    artifacts(tmp_path, np.random.default_rng(0))
    metrics = train(llama_folder, tmp_path, shuffled=False, changed={"ensemble": 2, "epochs": 2})
    assert metrics["members"] == 2 and metrics["best_of_4"]["contexts"] > 0
    folders = adapter_folders(tmp_path / "out")
    assert [folder.name for folder in folders] == ["adapter", "adapter-2"]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])

    base = load_model(llama_folder, Load())
    policy = lora_config(LoRA(rank=2), base, "ppo.lora", "the model", task_type="CAUSAL_LM")
    rollout = make_rollout([[1, 9, 8]], [Completion([7, 6], "stop", 2)], 0, "cpu")
    one, two = (
        SharedBackbone(load_model(llama_folder, Load()), policy, [folder]).scores(rollout).item()
        for folder in folders
    )
    both = SharedBackbone(base, policy, folders, spread_penalty=0.5).scores(rollout).item()
    assert both == pytest.approx((one + two) / 2 - 0.5 * abs(one - two) / 2, abs=1e-5)


def test_matched_lengths_and_two_heads_are_settings_of_the_stage(llama_folder, tmp_path):
    artifacts(tmp_path, np.random.default_rng(0), varied=True)
    changed = {"match_lengths": True, "length_head": LengthHead(), "epochs": 1}
    metrics = train(llama_folder, tmp_path, shuffled=False, changed=changed)
    fates = metrics["training"]["fates"]
    assert fates["kept"] == metrics["training"]["pairs"] and fates["unmatched"] >= 0
    head = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
    (score,) = [tensor for name, tensor in head.items() if name.endswith("score.weight")]
    assert len(score) == 1  # that of quality
