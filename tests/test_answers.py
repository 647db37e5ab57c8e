"""Answers to multiple-choice questions: what is asked, what is stored, how it is scored."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_random_model
from expertchat.answers.artifact import (
    ANSWERS,
    LOGPROBS,
    PROBABILITIES,
    TOKENS,
    UNCONDITIONAL,
    normalized_scores,
    read_answers,
    score_answers,
)
from expertchat.answers.asking import (
    answer_questions,
    answer_subject,
    harness_tokens,
    read_asked,
    shard_of_subjects,
)
from expertchat.answers.prompts import answer_texts, prompt
from expertchat.engine.interface import Pieces
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.questions.artifact import MultipleChoice, question_path
from expertchat.settings.mmlu import Asking
from expertchat.settings.models import Load
from test_questions import write
from transformers import AutoConfig
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

CHOICES = ("cold", "warm", "hot", "very hot indeed")
SHOTS = [MultipleChoice(f"How is {x}?", CHOICES, k) for k, x in enumerate(["ice", "tea", "fire"])]
ITEMS = [MultipleChoice(f"And {x}?", CHOICES, 1) for x in ("snow", "the sea in May", "a stone")]


@pytest.fixture
def engine(llama_folder):
    return LocalEngine(llama_folder, Load(), 4)


@pytest.fixture
def folder(tmp_path):
    for subject in ("art", "sailing"):
        for split in ("dev", "val", "test"):
            count = 5 if split == "dev" else 3
            rows = [[f"{subject} {k}?", *CHOICES, "C"] for k in range(count)]
            write(question_path(tmp_path, split, subject), rows)
    return tmp_path


def plain_logprob(engine, text, answer):
    """An answer's log-probability by a separate forward pass."""
    before, whole = (engine.tokenizer.encode(t) for t in (text, text + answer))
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logprobs[k - 1, whole[k]].item() for k in range(len(before), len(whole)))


@pytest.mark.parametrize("formulation", ["letter", "cloze"])
def test_a_real_model_answers_as_plain_forward_passes_say(engine, formulation):
    asking = Asking(formulation=formulation, shots=3)
    table = answer_subject(engine, "art", SHOTS, ITEMS, asking)
    for i, item in enumerate(ITEMS):
        text = prompt("art", SHOTS, item, asking)
        plain = [plain_logprob(engine, text, answer) for answer in answer_texts(item, asking)]
        assert table.loc[i, LOGPROBS].to_numpy(float) == pytest.approx(plain, abs=1e-4)
        assert table.loc[i, "mass"] == pytest.approx(np.exp(plain).sum(), rel=1e-3)
    assert np.allclose(score_answers(table, asking)[PROBABILITIES].sum(axis=1), 1)
    assert table["gold"].tolist() == [1, 1, 1] and table["shots"].tolist() == [3, 3, 3]
    assert not table["shortened"].any()


def cloze(normalization):
    return Asking(formulation="cloze", normalization=normalization, shots=3)


def test_scores_as_olmes_defines_them(engine):
    table = answer_subject(engine, "art", SHOTS, ITEMS, cloze("unconditional"))
    raw = table[LOGPROBS].to_numpy()
    names = ("none", "characters", "tokens", "unconditional")
    found = {n: normalized_scores(table, cloze(n)) for n in names}
    assert np.allclose(found["none"], raw)
    assert np.allclose(found["characters"], raw / [4, 4, 3, 15], atol=1e-4)
    encode = engine.tokenizer.encode
    counts = [len(encode(f"Answer: {c}")) - len(encode("Answer:")) for c in CHOICES]
    assert np.allclose(found["tokens"], raw / counts, atol=1e-4)
    alone = [plain_logprob(engine, "Answer:", f" {c}") for c in CHOICES]
    assert np.allclose(found["unconditional"], raw - alone, atol=1e-4)
    for name in names:
        assert (score_answers(table, cloze(name))["prediction"] == found[name].argmax(1)).all()


def test_normalizations_are_chosen_when_answers_are_read(engine, folder, tmp_path):
    """Stored answers have no probabilities, but all that none, characters and tokens need."""
    work = tmp_path / "work"
    work.mkdir()
    asked = read_asked(folder, "test", cloze("none"))
    table = answer_questions(engine, asked, cloze("none"), work)
    assert not {*PROBABILITIES, "prediction", *UNCONDITIONAL} & set(table) and {*TOKENS} <= set(table)
    other = tmp_path / "other"
    other.mkdir()
    pd.testing.assert_frame_equal(answer_questions(engine, asked, cloze("tokens"), other), table)
    table.to_parquet(tmp_path / ANSWERS)
    raw = table[LOGPROBS].to_numpy()
    by = {n: read_answers([tmp_path], cloze(n)) for n in ("none", "characters", "tokens")}
    assert (by["none"]["prediction"] == raw.argmax(1)).all()
    assert (by["characters"]["prediction"] == (raw / [4, 4, 3, 15]).argmax(1)).all()
    assert (by["tokens"]["prediction"] == (raw / table[TOKENS].to_numpy()).argmax(1)).all()
    weights = np.exp(raw / table[TOKENS].to_numpy())
    assert np.allclose(by["tokens"][PROBABILITIES], weights / weights.sum(1, keepdims=True))
    with pytest.raises(UserError, match=r"^mmlu\.normalization: unconditional; .* choose another"):
        read_answers([tmp_path], cloze("unconditional"))
    table.drop(columns=TOKENS).to_parquet(tmp_path / ANSWERS)
    with pytest.raises(UserError, match=r"^mmlu\.normalization: tokens; .* server does not report"):
        read_answers([tmp_path], cloze("tokens"))


def test_a_prompt_that_is_too_long_loses_solved_questions_and_then_its_beginning(engine):
    asking = Asking(shots=3)
    lengths = [
        len(engine.tokenizer.encode(prompt("art", SHOTS[:k], ITEMS[0], asking))) for k in range(4)
    ]
    long = MultipleChoice("And " + "a very " * lengths[2] + "hot stone?", CHOICES, 1)
    engine.model.config.max_position_embeddings = (
        lengths[2] + 1
    )  # " B" is two tokens, of which one is read
    table = answer_subject(engine, "art", SHOTS, [ITEMS[0], long], asking)
    assert table["shots"].tolist() == [2, 0]
    assert table["shortened"].tolist() == [True, True] and table["cut"].tolist() == [False, True]
    fewer = plain_logprob(engine, prompt("art", SHOTS[:2], ITEMS[0], asking), " B")
    assert table.loc[0, "logprob_B"] == pytest.approx(fewer, abs=1e-4)


def test_cut_prompts_keep_their_last_tokens_as_the_harness_does(engine):
    asking = Asking(shots=3, overflow="cut")
    text = prompt("art", SHOTS, ITEMS[0], asking)
    ids = engine.tokenizer.encode(text + " A")
    most = engine.model.config.max_position_embeddings = len(ids) - 8
    table = answer_subject(engine, "art", SHOTS, ITEMS[:1], asking)
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids[-(most + 1) :][:-1]])).logits[0, -1]
    assert table.loc[0, "logprob_A"] == pytest.approx(logits.log_softmax(-1)[ids[-1]].item(), abs=1e-4)
    assert table["shots"].tolist() == [3] and table["shortened"].all() and table["cut"].all()


@pytest.mark.parametrize(
    ("architecture", "settings", "limit"),
    [
        ("bloom", {}, 2048),
        ("mpt", {}, 2048),
        ("mpt", {"model_max_length": 512}, 512),
        ("mpt", {"model_max_length": VERY_LARGE_INTEGER}, 2048),
        ("gpt2", {"model_max_length": 512}, 1024),
        ("llama", {}, 2048),
        ("falcon", {"model_max_length": 512}, 2048),
    ],
)
def test_the_harness_limit_is_that_of_its_own_rules(tmp_path, architecture, settings, limit):
    AutoConfig.for_model(architecture).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert harness_tokens(tmp_path) == limit
    assert harness_tokens(tmp_path / "server") is None


def test_prompts_beyond_what_the_harness_reads_are_marked(tokenizer, tmp_path):
    """BLOOM reads texts of any length, of which the harness would cut the longer ones."""
    folder = save_random_model("bloom", tokenizer, tmp_path, n_head=4)
    engine, asking = LocalEngine(folder, Load(), 4), Asking(shots=3)
    assert engine.context_tokens is None
    lengths = sorted(len(tokenizer.encode(prompt("art", SHOTS, item, asking))) for item in ITEMS)
    read = [length + 1 for length in lengths]  # " B" is two tokens, of which one is read
    for limit, marked in ((read[-1], 0), (read[-2], 1), (read[0] - 1, 3), (None, 0)):
        table = answer_subject(engine, "art", SHOTS, ITEMS, asking, limit)
        assert table["beyond_harness"].sum() == marked and not table["shortened"].any()


def test_finished_subjects_are_not_asked_again(engine, folder, tmp_path):
    asked = read_asked(folder, "test", Asking())

    class Stops:
        """The engine, which is interrupted at its second subject."""

        pieces = Pieces(64, 1000)

        def __init__(self):
            self.asked, self.context_tokens, self.lengths = 0, engine.context_tokens, engine.lengths

        def answer_logprobs(self, groups, on_batch):
            self.asked += 1
            if self.asked > 1:
                raise KeyboardInterrupt
            return engine.answer_logprobs(groups)

    with pytest.raises(KeyboardInterrupt):
        answer_questions(Stops(), asked, Asking(), tmp_path)
    resumed = Stops()
    table = answer_questions(resumed, asked, Asking(), tmp_path)
    assert resumed.asked == 1
    (tmp_path / "again").mkdir()
    again = answer_questions(engine, asked, Asking(), tmp_path / "again")
    pd.testing.assert_frame_equal(table, again)
    assert list(zip(table["subject"], table["index"], strict=True)) == [
        (subject, index) for subject in ("art", "sailing") for index in range(3)
    ]


def test_questions_of_val_that_are_in_any_test_file_are_marked(engine, folder, tmp_path):
    shared = [[text, *CHOICES, "A"] for text in ("art 0?", "Sailing  2?")]
    write(question_path(folder, "val", "art"), shared)
    write(question_path(folder, "val", "sailing"), [["a new one?", *CHOICES, "A"]])
    asked = read_asked(folder, "val", Asking())
    assert {name: part.also_in_test for name, part in asked.items()} == {
        "art": [True, True],
        "sailing": [False],
    }
    table = answer_questions(engine, asked, Asking(), tmp_path)
    assert table["also_in_test"].tolist() == [True, True, False]


def test_missing_files_are_found_before_a_model_is_loaded(folder):
    assert len(read_asked(folder, "test", Asking(limit=2))["art"].items) == 2
    question_path(folder, "val", "art").unlink()
    with pytest.raises(UserError, match=r"art_val\.csv: no such file"):
        read_asked(folder, "val", Asking())
    write(question_path(folder, "dev", "art"), [["Just one?", *CHOICES, "A"]])
    with pytest.raises(UserError, match=r"art_dev\.csv: 1 questions, but mmlu\.shots is 2"):
        read_asked(folder, "test", Asking(shots=2))


def test_shards_have_similar_numbers_of_questions():
    sizes = {"law": 1500, "art": 100, "sailing": 700, "tea": 750}
    assert [shard_of_subjects(sizes, k, 2) for k in range(2)] == [["law"], ["art", "sailing", "tea"]]
    dealt = [name for k in range(3) for name in shard_of_subjects(sizes, k, 3)]
    assert sorted(dealt) == sorted(sizes)


def test_a_model_whose_numbers_overflow_has_no_prediction(engine):
    with torch.no_grad():
        engine.model.lm_head.weight[0] = torch.inf
    for formulation in ("letter", "cloze"):
        with pytest.raises(UserError, match=r"probabilities that are NaN: .* load\.dtype is too narrow"):
            answer_subject(engine, "art", SHOTS, ITEMS, Asking(formulation=formulation))


def test_a_server_whose_numbers_overflow_has_no_prediction(engine, monkeypatch):
    def impossible(groups, on_batch):
        return [[np.full(4, -np.inf) for _ in g] for g in groups]

    monkeypatch.setattr(engine, "answer_logprobs", impossible)
    with pytest.raises(UserError, match=r"^art, question 0: .* not finite \(3 questions .* float16"):
        answer_subject(engine, "art", SHOTS, ITEMS, Asking())


def test_more_shards_than_subjects_are_found_before_a_model_is_loaded(folder):
    assert len(read_asked(folder, "test", Asking(), (1, 2))) == 1
    with pytest.raises(
        UserError, match=r"^mmlu\.shards: 3; each shard needs a subject, and there are only 2"
    ):
        read_asked(folder, "test", Asking(), (0, 3))


def test_shots_are_dropped_by_a_context_length_of_another_name(tokenizer, tmp_path):
    save_random_model("mpt", tokenizer, tmp_path, max_seq_len=150)
    engine = LocalEngine(tmp_path, Load(), 4)
    assert engine.context_tokens == 150
    table = answer_subject(engine, "art", SHOTS, ITEMS, Asking(shots=3))
    assert table["shortened"].all() and table["shots"].max() < 3 and not table["cut"].any()
