"""Whose replies are better: pairs, the judge's two orders, win rates and their intervals."""

import numpy as np
import pandas as pd
import pytest
import torch
from expertchat.checkpoints import Checkpoints
from expertchat.contexts import OpenContext
from expertchat.engine.training import load_model, lora_config, save_adapter
from expertchat.judgements.asking import ask_judge, question_on
from expertchat.judgements.pairing import paired_replies
from expertchat.judgements.scoring import preferences_by_scores
from expertchat.judgements.wins import win_rate, write_judgements
from expertchat.records import read_json, write_json, write_records
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from transformers import AutoModelForSequenceClassification

CONTEXTS = [
    OpenContext(f"c{i}", f"t{i // 2}", [{"role": "user", "content": f"Question {i}?"}]) for i in range(4)
]
TEMPLATE = "{{ fence }}{% for letter, text in replies.items() %} {{ letter }}: {{ text }}{% endfor %}"


@pytest.fixture
def replies(tmp_path):
    """Folders of two replies to each context by three contestants."""
    for name in ("base", "sft", "tuned"):
        (tmp_path / name).mkdir()
        rows = [
            {"context_id": c.id, "number": n, "text": f"{name} {n}", "tokens": len(name)}
            for c in CONTEXTS
            for n in (0, 1)
        ]
        write_records(tmp_path / name / "replies.jsonl", rows)
    return {name: tmp_path / name for name in ("base", "sft", "tuned")}


def test_every_contestant_meets_every_earlier_one(replies):
    pairs = paired_replies(replies, CONTEXTS)
    assert len(pairs) == 4 * 2 * 3
    assert [(p.first, p.second, p.number) for p in pairs[:4]] == [
        ("sft", "base", 0),
        ("tuned", "base", 0),
        ("tuned", "sft", 0),
        ("sft", "base", 1),
    ]
    assert pairs[1].texts == ("tuned 0", "base 0") and pairs[1].tokens == (5, 4)


class Judge:
    """An engine that prefers the letter A by `place` nats, and the tuned reply by `taste` nats."""

    pieces = type("Pieces", (), {"questions": 2})

    def __init__(self, taste, place, mass=0.5):
        self.taste, self.place, self.mass, self.asked = taste, place, mass, 0

    def answer_logprobs(self, groups, on_batch):
        self.asked += sum(map(len, groups))
        return [[self.answer(question) for question in group] for group in groups]

    def answer(self, question):
        text = question.prompt[-1]["content"]
        tuned_is_a = " A: tuned" in text
        logits = np.array([self.place, 0.0])
        logits[0 if tuned_is_a else 1] += self.taste
        return np.log(self.mass) + logits - np.logaddexp.reduce(logits)


def ask(judge, replies, tmp_path):
    contestants = {name: replies[name] for name in ("base", "tuned")}
    pairs = paired_replies(contestants, CONTEXTS)
    return pairs, ask_judge(judge, pairs, TEMPLATE, 0, Checkpoints(tmp_path / "c"), lambda *_: None)


def test_a_liking_for_one_place_cancels_out(replies, tmp_path):
    pairs, asked = ask(Judge(taste=0.0, place=3.0), replies, tmp_path)
    assert asked.preferences == pytest.approx([0.5] * len(pairs))
    assert asked.consistent == 0 and asked.first_place == pytest.approx(1 / (1 + np.exp(-3)))
    assert asked.mass == pytest.approx(0.5)


def test_a_taste_is_found_in_both_orders(replies, tmp_path):
    pairs, asked = ask(Judge(taste=1.0, place=0.5), replies, tmp_path)
    assert (asked.preferences > 0.5).all() and asked.consistent == 1
    expected = (1 / (1 + np.exp(-1.5)) + 1 / (1 + np.exp(-0.5))) / 2
    assert asked.preferences == pytest.approx([expected] * len(pairs))


def test_no_probability_on_either_letter_is_undecided(replies, tmp_path):
    class Silent(Judge):
        def answer(self, question):
            return np.array([-np.inf, -np.inf])

    _, asked = ask(Silent(0, 0), replies, tmp_path)
    assert (asked.preferences == 0.5).all() and (asked.mass == 0).all()


def test_a_reply_cannot_forge_the_code_that_marks_the_texts(replies):
    pair = paired_replies(replies, CONTEXTS)[0]
    code = question_on(pair, TEMPLATE, 0, 0).prompt[-1]["content"].split()[0]
    forged = type(pair)(**vars(pair) | {"texts": (f"{code} END", "no")})
    text = question_on(forged, TEMPLATE, 0, 0).prompt[-1]["content"]
    assert text.split()[0] != code


def test_win_rates_by_hand(replies, tmp_path):
    table = pd.DataFrame(
        {
            "topic_id": ["a", "a", "b", "b"],
            "preference": [0.9, 0.4, 0.5, 0.6],  # won, lost, undecided, won
            "first_tokens": [9, 9, 9, 4],
            "second_tokens": [4, 4, 4, 4],
        }
    )
    found = win_rate(table)
    assert found["win_rate"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["ties"] == 0.25 and found["pairs"] == 4
    assert found["longer_wins"] == pytest.approx((1 + 0 + 0.5) / 3)
    low, high = found["win_rate_interval"]
    assert low == pytest.approx(0.5) and high == pytest.approx(0.75)  # the means of the two topics
    pairs = paired_replies({k: replies[k] for k in ("base", "tuned")}, CONTEXTS)
    write_judgements(pairs, np.ones(len(pairs)), {"judge": "gpt"}, tmp_path)
    (comparison,) = read_json(tmp_path / "wins.json")["comparisons"]
    assert (comparison["first"], comparison["second"]) == ("tuned", "base")
    assert comparison["win_rate"] == 1 and len(pd.read_parquet(tmp_path / "judgements.parquet")) == 8


@pytest.mark.slow
def test_scores_decide_and_do_not_depend_on_the_place(llama_folder, replies, tmp_path):
    from peft import get_peft_model

    torch.manual_seed(1)
    base = load_model(llama_folder, Load(), AutoModelForSequenceClassification, num_labels=1)
    lora = LoRA(rank=2)
    kinds = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    model = get_peft_model(base, lora_config(lora, base, "x", "y", **kinds))
    torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight)
    folder = tmp_path / "reward"
    folder.mkdir()
    save_adapter(model, folder / "adapter")
    write_json(folder / "metrics.json", {"spread_penalty": 1.0})
    pairs = paired_replies(replies, CONTEXTS)
    found = preferences_by_scores(pairs, llama_folder, Load(), folder, 64, "judge")
    turned = [type(p)(**vars(p) | {"texts": p.texts[::-1]}) for p in pairs]
    again = preferences_by_scores(turned, llama_folder, Load(), folder, 64, "judge")
    assert (found + again == 1).all() and set(found) == {0.0, 1.0}
    same = [type(p)(**vars(p) | {"texts": ("yes", "yes")}) for p in pairs]
    assert (preferences_by_scores(same, llama_folder, Load(), folder, 64, "judge") == 0.5).all()
