"""Questions are asked and scored as by lm-evaluation-harness 0.4.13, checked without the harness.

benchmarks/mmlu_parity.py compares with the harness itself. The checksums below are of prompts that the
harness made from the same files.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from expertchat.answers.artifact import LOGPROBS
from expertchat.answers.asking import answer_questions, read_asked
from expertchat.answers.prompts import answer_texts, prompt
from expertchat.engine.interface import Question
from expertchat.engine.local import LocalEngine
from expertchat.mmlu.harness import harness_json
from expertchat.questions.artifact import (
    LETTERS,
    MultipleChoice,
    list_subjects,
    question_path,
    read_questions,
)
from expertchat.settings.mmlu import Asking
from expertchat.settings.models import Load
from test_questions import write

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from parity_models import ARCHITECTURES, PARTED, build_model

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("EXPERTCHAT_DATA", "absent")) / "mmlu"
needs_mmlu = pytest.mark.skipif(not DATA.is_dir(), reason="EXPERTCHAT_DATA has no mmlu")

# sha256 of all 14,042 prompts with their four continuations, in order, as the harness makes them
LOGGED = {
    "letter": "48b821e37be000cca066b316c7dd1fd224cbd3ec1ed0f9bff73f3562ae503ff1",
    "cloze": "ca66b55af600b32f69a76e68c21118ba3313d7da72afa44ab0541d9a200a8034",
}


@needs_mmlu
@pytest.mark.parametrize("formulation", ["letter", "cloze"])
def test_all_of_mmlu_is_asked_in_the_harness_texts(formulation):
    asking, total = Asking(formulation=formulation), hashlib.sha256()
    for subject in list_subjects(DATA):
        shots = read_questions(question_path(DATA, "dev", subject))[:5]
        for item in read_questions(question_path(DATA, "test", subject)):
            for text in (prompt(subject, shots, item, asking), *answer_texts(item, asking)):
                total.update(text.encode() + b"\0")
    assert total.hexdigest() == LOGGED[formulation]


def test_only_questions_lose_outer_white_space():
    item = MultipleChoice("\xa0How hot?\n", (" cold", "warm ", "hot", "hotter"), 1)
    letter = prompt("art", [item], item, Asking())
    question = "How hot?\nA.  cold\nB. warm \nC. hot\nD. hotter\nAnswer:"
    start = "The following are multiple choice questions (with answers) about art.\n\n"
    assert letter == f"{start}{question} B\n\n{question}"
    cloze = Asking(formulation="cloze")
    start = "The following are questions (with answers) about art.\n\n"
    question = "Question: How hot?\nAnswer:"
    assert prompt("art", [item], item, cloze) == f"{start}{question} warm \n\n{question}"
    assert answer_texts(item, cloze) == ["  cold", " warm ", " hot", " hotter"]


ROWS = [
    ["How hot is tea?", "cold", "warm", "hot", "very hot indeed", "C"],
    [" What costs more? ", " $10 ", "$10", "a dime", "nothing – or ünknown", "B"],
    ["Which one is it?", "the same", "the other", "the same", "neither", "D"],
    [
        "How long is a piece of string? " + "It depends on the string. " * 220,
        "x",
        "y",
        "z",
        "it is",
        "A",
    ],
    ["None of these?", "None", "NA", "nan", "0", "A"],
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """One subject of unusual questions, and one whose prompts fit only Llama and GPT-NeoX."""
    folder = tmp_path_factory.mktemp("questions")
    for split in ("dev", "val", "test"):
        write(question_path(folder, split, "art"), ROWS[:3] + ROWS[4:])
        write(question_path(folder, split, "string"), [ROWS[3], *ROWS[:3]])
    return folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def parity_model(request, questions, tmp_path_factory) -> Path:
    """A random model of each architecture, with a tokenizer of its family's kind."""
    folder = tmp_path_factory.mktemp(request.param) / request.param
    build_model(request.param, questions, folder)
    return folder


def plain_logprobs(
    engine: LocalEngine, context: str, continuation: str, most: int, skipped: int
) -> float:
    """The harness's score: both texts are encoded together, with the tokenizer's default special tokens;
    tokens beyond the prompt's own number are the continuation, and the last `most` tokens before the
    very last are read. The first `skipped` tokens of the continuation are not counted."""
    import torch

    encode = engine.tokenizer.encode
    whole = encode(context + continuation)
    answer = whole[len(encode(context)) :]
    read = whole[-(most + 1) :][:-1]
    with torch.no_grad():
        logprobs = engine.model(torch.tensor([read])).logits[0].log_softmax(-1)
    counted = logprobs[-len(answer) :].gather(1, torch.tensor([answer]).T)
    return float(counted[skipped:].sum())


@pytest.mark.parametrize("formulation", ["letter", "cloze"])
def test_log_likelihoods_are_the_harness_s_on_every_shape(
    parity_model, questions, formulation, tmp_path
):
    asking = Asking(formulation=formulation, normalization="none", shots=3, overflow="cut")
    engine = LocalEngine(parity_model, Load(dtype="float32"), 16)
    subjects = list_subjects(questions)
    answers = answer_questions(engine, read_asked(questions, "test", asking), asking, tmp_path)
    config = engine.model.config
    most = getattr(config, "n_positions", config.max_position_embeddings)
    skipped = int(formulation == "letter" and parity_model.name in PARTED)  # the "▁" before a letter
    plain, cut = [], []
    for subject in subjects:
        shots = read_questions(question_path(questions, "dev", subject))[:3]
        for item in read_questions(question_path(questions, "test", subject)):
            text, texts = prompt(subject, shots, item, asking), answer_texts(item, asking)
            plain.append([plain_logprobs(engine, text, a, most, skipped) for a in texts])
            cut.append(max(len(engine.tokenizer.encode(text + a)) for a in texts) > most + 1)
    assert np.allclose(answers[LOGPROBS], plain, atol=2e-5, rtol=0)
    assert answers["cut"].tolist() == cut
    assert any(cut) == (parity_model.name in ("gpt2", "mixtral")) and not all(cut)
    same = answers[(answers["A"] == "the same")]
    assert formulation == "letter" or (same["logprob_A"] == same["logprob_C"]).all()


def test_equal_choices_are_equally_likely_to_the_last_bit(parity_model):
    engine = LocalEngine(parity_model, Load(dtype="float32"), 16)
    texts = ["the same", "the other", "neither", "very hot indeed", "a dime", "it is"]
    asked = [
        Question(f"Question: {'tea ' * n}?\nAnswer:", [f" {a}", " $10", f" {a}", " ünknown"], cut=n > 3)
        for n in range(8)
        for a in texts
    ]
    for logprobs in engine.answer_logprobs([asked])[0]:
        assert logprobs[0] == logprobs[2]


def test_special_tokens_stand_before_a_prompt_only_where_the_tokenizer_puts_them(parity_model):
    tokenizer = LocalEngine(parity_model, Load(), 1).tokenizer
    begins = {"llama": ["<s>", "▁a"], "mixtral": ["<s>", "▁a"], "gpt2": ["a"], "neox": ["a"]}
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("a"))
    assert tokens == begins[parity_model.name]
    asked = tokenizer.convert_ids_to_tokens(tokenizer.encode("Answer: A"))
    letter = {"llama": ["▁A"], "mixtral": ["▁", "A"], "gpt2": ["ĠA"], "neox": ["ĠA"]}
    assert asked[asked.index(":") + 1 :] == letter[parity_model.name]


def always(letter: str, folder: Path):
    """Answers of a model that always chooses one letter, on the test questions of a folder."""
    import pandas as pd

    rows = [
        (subject, i, *item.answers, item.gold)
        for subject in list_subjects(folder)
        for i, item in enumerate(read_questions(question_path(folder, "test", subject)))
    ]
    answers = pd.DataFrame(rows, columns=["subject", "index", *LETTERS, "gold"])
    answers[LOGPROBS] = np.where(np.array(list(LETTERS)) == letter, -1.0, -2.0)
    answers["prediction"] = LETTERS.index(letter)
    answers["shortened"] = answers["beyond_harness"] = False
    return answers


# by the harness's own functions: accuracy and standard error if D is always chosen
ALWAYS_D = {
    "mmlu_abstract_algebra": (0.21, 0.040936018074033256),
    "mmlu_anatomy": (0.22962962962962963, 0.03633384414073465),
    "mmlu_high_school_biology": (0.3161290322580645, 0.026450874489042767),
    "mmlu_professional_law": (0.24445893089960888, 0.010976425013113897),
    "mmlu_stem": (0.2860767522993974, 0.007959894447428692),
    "mmlu_other": (0.2513678789829417, 0.007644350095427473),
    "mmlu_social_sciences": (0.31069223269418267, 0.008278554546998305),
    "mmlu_humanities": (0.24165781083953242, 0.006229085729404717),
    "mmlu": (0.2689075630252101, 0.0037016236891939144),
}


@needs_mmlu
def test_accuracies_and_errors_are_the_harness_s_to_the_last_digit():
    answers = always("D", DATA)
    sizes = answers.groupby("subject").size().to_dict()
    found = harness_json(answers, "always D", Asking().model_dump(), sizes, {})["results"]
    for name, figures in ALWAYS_D.items():
        assert (found[name]["acc,none"], found[name]["acc_stderr,none"]) == figures
