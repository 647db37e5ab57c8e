"""Prompts and scores of multiple-choice questions; the mixture of several models."""

import numpy as np
import pandas as pd
import pytest
from expertchat.engine.local import LocalEngine
from expertchat.mixture import uniform_mixture
from expertchat.mmlu import accuracy, answer_questions, answer_texts, prompt_text
from expertchat.questions import MultipleChoice, question_path
from expertchat.settings.mmlu import MMLUAsking
from expertchat.settings.models import Load
from test_questions import write

ITEM = MultipleChoice("How hot?", ("cold", "warm", "hot", "hotter"), 2)


def test_the_letter_prompt():
    assert prompt_text("high_school_art", [ITEM], ITEM, "letter") == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "How hot?\nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer: C\n\n"
        "How hot?\nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer:"
    )
    assert answer_texts(ITEM, "letter") == [" A", " B", " C", " D"]


def test_the_cloze_prompt_shows_no_choices():
    assert prompt_text("art", [ITEM], ITEM, "cloze") == (
        "The following are questions (with answers) about art.\n\n"
        "Question: How hot?\nAnswer: hot\n\nQuestion: How hot?\nAnswer:"
    )
    assert answer_texts(ITEM, "cloze")[3] == " hotter"


@pytest.fixture
def questions(tmp_path):
    rows = [["How hot?", "cold", "warm", "hot", "very hot indeed", "C"]] * 5
    for split in ("dev", "test"):
        write(question_path(tmp_path, split, "art"), rows)
    return tmp_path


@pytest.mark.parametrize("formulation", ["letter", "cloze"])
def test_a_real_model_answers_as_plain_forward_passes_say(llama_folder, questions, formulation):
    import torch

    engine = LocalEngine(llama_folder, Load(), 4)
    settings = MMLUAsking(formulation=formulation, shots=2, limit=3)
    table = answer_questions(engine, questions, settings, "mmlu")
    assert len(table) == 3 and table["gold"].tolist() == [2, 2, 2]
    assert np.allclose(table[["p_A", "p_B", "p_C", "p_D"]].sum(axis=1), 1)
    shot = MultipleChoice("How hot?", ("cold", "warm", "hot", "very hot indeed"), 2)
    text = prompt_text("art", [shot, shot], shot, formulation)
    encode = engine.tokenizer.encode
    prompt = [engine.tokenizer.bos_token_id, *encode(text, add_special_tokens=False)]
    for letter, answer in zip("ABCD", answer_texts(shot, formulation), strict=True):
        whole = [prompt[0], *encode(text + answer, add_special_tokens=False)]
        with torch.no_grad():
            logprobs = engine.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(prompt), len(whole))
        plain = sum(logprobs[k - 1, whole[k]].item() for k in places)
        assert table[f"logprob_{letter}"].iloc[0] == pytest.approx(plain, abs=1e-4)


def table(probabilities, gold=0):
    rows = [[*row, gold, i, "art", int(np.argmax(row))] for i, row in enumerate(probabilities)]
    return pd.DataFrame(
        rows, columns=["p_A", "p_B", "p_C", "p_D", "gold", "index", "subject", "prediction"]
    )


def test_the_surer_model_decides_the_mixture():
    sure = table([[0.9, 0.1, 0, 0], [0.3, 0.4, 0.3, 0]])
    other = table([[0.4, 0.6, 0, 0], [0.8, 0.2, 0, 0]])
    mixed = uniform_mixture([sure, other])
    assert mixed["prediction"].tolist() == [0, 0]
    assert accuracy(sure) == {"all": 0.5, "art": 0.5}
    assert accuracy(mixed)["all"] == 1.0


def test_only_equal_questions_mix():
    with pytest.raises(ValueError, match="same questions"):
        uniform_mixture([table([[1, 0, 0, 0]]), table([[1, 0, 0, 0]] * 2)])
