"""Scores equal those of complete prompts, whatever is shared; token ids are those of complete texts."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_random_model
from expertchat.engine.batches import Batches
from expertchat.engine.interface import Lengths, Question
from expertchat.engine.local import LocalEngine
from expertchat.engine.score.encoding import Encoder, leading_ids
from expertchat.engine.score.forest import build_forest
from expertchat.engine.score.forest_attention import attend, attend_plainly
from expertchat.engine.score.tokenized import (
    AnswerSequence,
    TokenizedQuestion,
    answer_sequences,
    exclusive_logprobs,
)
from expertchat.errors import UserError
from expertchat.questions.artifact import LETTERS, list_subjects, question_path, read_questions
from expertchat.settings.models import Load
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SHAPES = {  # scored with forest attention, or with a mask
    "llama": {},
    "gpt2": {},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "gptj": {"rotary_dim": 4},
}
SHOTS = ["Bread is rye. Answer: A\n\n", "I bake at 220 degrees. Answer: C\n\n", "Rate it. Answer: B\n\n"]
ASKED = ["Which bread?", "Which degrees are those of rye bread, and which are not?", "What?", "Which?"]


def prompt(shots: int, asked: str) -> str:
    return "On bread.\n\n" + "".join(SHOTS[:shots]) * 4 + asked + " Answer:"


def questions(cloze: bool = False) -> list[Question]:
    """Questions with three shots and with two, which are the start of the three."""
    texts = [" rye", " rye bread", " 220 degrees of it", " A"] if cloze else [" A", " B", " C", " D"]
    return [Question(prompt(3 - i % 2, asked), texts) for i, asked in enumerate(ASKED * 2)]


@pytest.fixture(scope="module", params=SHAPES)
def engine(request, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    changes = SHAPES[request.param] | {"tie_word_embeddings": False}
    save_random_model(request.param, tokenizer, folder, **changes)
    return LocalEngine(folder, Load(), batch_size=64)


def plain(engine, each) -> list[float]:
    """Each answer's log-probability by one pass over the whole text."""
    found = []
    for answer in each.answers:
        ids = [*map(int, each.prompt), *answer]
        with torch.no_grad():
            logits = engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(each.prompt) - 1, len(ids) - 1)
        found.append(sum(logits[i, t].item() for i, t in zip(places, answer, strict=True)))
    return found


@pytest.mark.parametrize("cloze", [False, True], ids=["letter", "cloze"])
def test_few_shot_answers_equal_whole_prompts(engine, cloze):
    asked = questions(cloze)
    expected = [plain(engine, each) for each in engine.encoder.tokenize(asked)]
    (found,) = engine.answer_logprobs([asked])
    assert np.allclose(found, expected, atol=1e-5)


def test_models_are_scored_by_the_fastest_method_that_they_allow(engine, capfd):
    engine._method = None  # other tests may have set it
    engine.answer_logprobs([questions()[:1]])
    own = engine.model.config.model_type == "gptj"  # its attention does not use transformers' interface
    assert engine.method == ("mask" if own else "forest")
    assert ("scored with a mask, more slowly, as a trial run raised" in capfd.readouterr().err) == own


def test_attention_windows_inside_a_model_are_respected(tokenizer, tmp_path, capfd):
    own = {"attention_types": [[["global", "local"], 1]], "window_size": 8}
    save_random_model("gpt_neo", tokenizer, tmp_path, **own)
    engine = LocalEngine(tmp_path, Load(), batch_size=64)
    tokenized = engine.encoder.tokenize(questions())
    found = engine.score([tokenized])[0]
    for each, logprobs in zip(tokenized, found, strict=True):
        assert logprobs.tolist() == pytest.approx(plain(engine, each), abs=1e-3)
    assert engine.method == "whole" and "are recomputed" in capfd.readouterr().err


@pytest.mark.parametrize("most", [7, 50, 10_000])
def test_no_probability_depends_on_how_the_tokens_are_divided(engine, most, monkeypatch):
    asked = questions(cloze=True)
    expected = engine.answer_logprobs([asked[:5], asked[5:]])
    read = []
    trunk = getattr(engine.model, engine.model.base_model_prefix)
    hook = trunk.register_forward_pre_hook(
        lambda _, a, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("expertchat.engine.local.planned_tokens", lambda _: most)
    found = engine.answer_logprobs([asked[:5], asked[5:]])
    hook.remove()
    assert max(read) <= most and (len(read) == 1) == (most == 10_000)
    for a, b in zip(found, expected, strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_a_batch_of_one_node_and_a_full_memory_change_nothing(engine, monkeypatch):
    asked, done = questions(), []
    expected = engine.answer_logprobs([asked])[0]
    monkeypatch.setattr(engine, "passes", Batches(64))
    trunk, fails = getattr(engine.model, engine.model.base_model_prefix), []

    def full(_, arguments, kwargs):
        if len(fails) < 2:
            fails.append(kwargs["input_ids"].numel())
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = trunk.register_forward_pre_hook(full, with_kwargs=True)
    found = engine.answer_logprobs([asked[:4], asked[4:]], lambda questions, *_: done.append(questions))
    hook.remove()
    assert fails and engine.passes.max_size < 64 and sum(done) == len(asked)
    assert np.allclose(np.concatenate(found), expected, atol=1e-5)


def test_complete_prompts_give_the_same_scores(engine, monkeypatch):
    asked = questions(cloze=True)
    expected = engine.answer_logprobs([asked])[0]
    monkeypatch.setattr(engine, "_method", "whole")
    assert np.allclose(engine.answer_logprobs([asked])[0], expected, atol=1e-5)


def test_heads_that_share_keys_and_plain_attention_agree():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8).unbind()
    for causal in (False, True):
        found = attend(query, key, value, causal=causal, scaling=None)
        for a, b in zip(found, attend_plainly(query, key, value, causal, None), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def sequence(*ids: int, answer=(1,)) -> AnswerSequence:
    return AnswerSequence(np.array(ids, np.int32), list(answer), (0, 0, 0))


def test_a_shared_start_is_one_node():
    rows = [sequence(1, 2, 3, 4), sequence(1, 2, 3), sequence(1, 2, 5, 6, 7), sequence(1, 2, 3, 4)]
    forest = build_forest(rows, max_tokens=100, min_saved=1)
    shape = {(node.start, tuple(node.ids.tolist()), node.parent, node.end) for node in forest.nodes}
    assert shape == {
        (0, (1, 2), -1, 4),
        (2, (5, 6, 7), 0, 2),
        (2, (3,), 0, 4),
        (3, (4,), 2, 4),
    }
    assert forest.last.tolist() == [3, 2, 1, 3]
    assert len(build_forest(rows, max_tokens=100).nodes) == 4  # too little to save: one node per text


def test_a_long_node_is_a_chain_and_its_lookups_are_where_their_tokens_are():
    forest = build_forest([sequence(*range(1, 8), answer=(70, 80, 90))], max_tokens=3)
    assert [(node.start, node.parent, node.end) for node in forest.nodes] == [
        (0, -1, 3),
        (3, 0, 3),
        (6, 1, 3),
    ]
    found = zip(forest.node.tolist(), forest.offset.tolist(), forest.token.tolist(), strict=True)
    assert list(found) == [(1, 1, 70), (1, 2, 80), (2, 0, 90)]


def test_a_cut_keeps_what_lm_evaluation_harness_keeps():
    """Input = (prompt + answer)[-(context + 1):][:-1], each answer by itself."""
    prompt_ids, answers = [1, 2, 3, 4, 5, 6], [[7], [8, 9, 10]]
    short, long = answer_sequences([[TokenizedQuestion(prompt_ids, answers, cut=True)]], 6)
    assert short.ids.tolist() == [1, 2, 3, 4, 5, 6]  # as long as the model can read: nothing is removed
    assert long.ids.tolist() == [3, 4, 5, 6, 8, 9]
    with pytest.raises(UserError, match="an answer of 3 tokens"):
        answer_sequences([[TokenizedQuestion(prompt_ids, answers, cut=True)]], 2)


def test_a_cut_question_is_answered_from_its_end(tokenizer, tmp_path):
    folder = save_random_model("llama", tokenizer, tmp_path, max_position_embeddings=64)
    engine = LocalEngine(folder, Load(), 8)
    text, answers = prompt(3, ASKED[1]), [" A", " rye bread"]
    assert engine.context_tokens == 64
    with pytest.raises(UserError, match="reads at most 64"):
        engine.answer_logprobs([[Question(text, answers)]])
    ((found,),) = engine.answer_logprobs([[Question(text, answers, cut=True)]])
    (each,) = engine.encoder.tokenize([Question(text, answers)])
    for logprob, answer in zip(found, each.answers, strict=True):
        kept = [*each.prompt, *answer][-65:]
        split = len(kept) - len(answer)
        assert logprob == pytest.approx(
            plain(engine, TokenizedQuestion(kept[:split], [kept[split:]]))[0], abs=1e-5
        )


def test_equal_answers_are_equally_likely(engine):
    for exclusive in (False, True):
        asked = Question(prompt(1, "Which?"), [" rye", " 1", " rye", " 12"], exclusive=exclusive)
        ((found,),) = engine.answer_logprobs([[asked]])
        assert found[0] == found[2] != found[1]


def test_equal_longer_answers_are_subtracted_once():
    logprobs = np.log([0.5, 0.2, 0.2])
    found = exclusive_logprobs([[1], [1, 2], [1, 2]], logprobs)
    assert np.exp(found).tolist() == pytest.approx([0.3, 0.2, 0.2])


def spaced_tokenizer(texts, joined: bool, begins: str = "<s>", ends: str = ""):
    """A tokenizer like SentencePiece's: spaces are "▁", no split before merges, byte fallback.

    `joined`: whether "▁" merges with the next characters; `begins` and `ends` are added to each text.
    """
    split = pre_tokenizers.Split("▁", "merged_with_next" if joined else "isolated")
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = split
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begins} $A {ends}".strip(), special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_tokenizer(texts):
    """A tokenizer like GPT-2's: byte-level, with a BOS token that it does not add."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


TEXTS = ["".join(SHOTS), *ASKED, "On bread.\n\n", "Which rye bread is A or B?"]


def test_a_text_starts_with_the_special_tokens_of_its_tokenizer():
    both = spaced_tokenizer(TEXTS, True, ends="</s>")
    assert leading_ids(both) == [1]
    assert leading_ids(spaced_tokenizer(TEXTS, True)) == [1]
    assert leading_ids(byte_tokenizer(TEXTS)) == []
    encoder = Encoder(both)
    plain_text, begun, empty = encoder.tokenize(
        [Question(text, [" A", " B"]) for text in ("On bread.", "<s>On bread.", "")]
    )
    assert plain_text.prompt[0] == 1 and plain_text.prompt[1] != 1
    assert begun.prompt.tolist().count(1) == 1
    assert empty.prompt.tolist() == [1]
    bare = Encoder(byte_tokenizer(TEXTS)).tokenize([Question(t, [" A"]) for t in ("On bread.", "")])
    assert bare[0].prompt.tolist() == byte_tokenizer(TEXTS).encode("On bread.")
    assert bare[1].prompt.tolist() == [0]  # the model needs at least one token


def test_a_shared_token_is_read_with_the_prompt():
    encoder = Encoder(spaced_tokenizer(TEXTS, joined=False))
    letters = [f" {x}" for x in "ABCD"]
    whole, skipped = encoder.tokenize(
        [Question("Which? Answer:", letters, skip_shared=skip) for skip in (False, True)]
    )
    assert {len(answer) for answer in whole.answers} == {2}
    assert {len(answer) for answer in skipped.answers} == {1}
    assert skipped.prompt.tolist() == [*whole.prompt.tolist(), whole.answers[0][0]]
    asked = Question("Which? Answer:", [" A", " A rye", " A"], skip_shared=True)
    (kept,) = encoder.tokenize([asked])  # every answer has at least one token
    assert all(kept.answers) and kept.answers[0] == kept.answers[2]


def test_answers_that_join_their_prompt_are_an_error_where_they_must_be_told_apart():
    encoder = Encoder(byte_tokenizer(["bake baker bakes baking " * 9]))
    with pytest.raises(UserError, match="joins the answer 'r bake' with the end of its prompt"):
        encoder.tokenize([Question("I bake", ["r bake", " bakes"], exclusive=True)])
    (each,) = encoder.tokenize([Question("I bake", ["r bake", " bakes"])])
    whole = encoder.tokenizer.encode("I baker bake")  # lm-evaluation-harness slices it at the same place
    assert each.answers[0] == whole[len(each.prompt) :]
    with pytest.raises(UserError, match="joins"):
        encoder.tokenize([Question("I bake", ["r"])])  # no token of its own


def test_lengths_equal_the_tokenized_questions_and_cache_them(engine, monkeypatch):
    asked = questions(cloze=True)
    lengths = engine.lengths(asked)
    tokenized = engine.encoder.tokenize(asked)
    assert lengths == [Lengths(len(p.prompt), list(map(len, p.answers))) for p in tokenized]
    encoder = Encoder(engine.tokenizer)
    encoder.lengths(asked)
    monkeypatch.setattr(encoder, "tokenizer", None)  # a second call of the tokenizer would fail
    assert [p.prompt.tolist() for p in encoder.tokenize(asked)] == [p.prompt.tolist() for p in tokenized]


@pytest.fixture(scope="module")
def mmlu() -> Path:
    folder = Path(os.environ.get("EXPERTCHAT_DATA", "")) / "mmlu"
    if "EXPERTCHAT_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("MMLU is missing: set EXPERTCHAT_DATA to a folder that contains mmlu/")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte-level", "spaces that join", "spaces alone"])
def test_answers_to_mmlu_are_encoded_as_with_their_whole_prompts(mmlu, kind):
    """A quarter of MMLU, to save time, without shots, which are far before the answer."""
    asked, texts = [], []
    for subject in list_subjects(mmlu):
        for item in read_questions(question_path(mmlu, "test", subject))[::4]:
            choices = "".join(f"{x}. {a}\n" for x, a in zip(LETTERS, item.answers, strict=True))
            asked.append(Question(f"{item.question}\n{choices}Answer:", [f" {x}" for x in LETTERS]))
            cloze = f"Question: {item.question}\nAnswer:"
            asked.append(Question(cloze, [f" {a}" for a in item.answers]))
        texts += [question.prompt for question in asked[-40:]]
    makers = {
        "byte-level": byte_tokenizer,
        "spaces that join": lambda t: spaced_tokenizer(t, True),
        "spaces alone": lambda t: spaced_tokenizer(t, False),
    }
    encoder = Encoder(makers[kind](texts))
    assert encoder.local
    tokenized = encoder.tokenize(asked)
    assert encoder.local  # the shortcut passed its checks
    whole = encoder.encode([q.prompt + a for q in asked for a in q.answers])
    ids = iter(whole)
    lead = len(encoder.leading)
    for each in tokenized:
        for answer in each.answers:
            assert next(ids).tolist() == [*each.prompt[lead:].tolist(), *answer]


def test_shared_paragraphs_are_encoded_once_with_the_same_ids(mmlu):
    """Each question has five shots before it; one tokenizer merges across words."""
    from expertchat.questions.artifact import list_subjects

    texts = []
    for subject in list_subjects(mmlu)[::9]:
        shots = read_questions(question_path(mmlu, "dev", subject))
        start = f"On {subject}.\n\n" + "".join(f"{s.question}\nAnswer: A\n\n" for s in shots)
        items = read_questions(question_path(mmlu, "test", subject))[:40]
        texts += [f"{start}{item.question}\nAnswer:" for item in items]
    for tokenizer in (byte_tokenizer(texts), spaced_tokenizer(texts, True)):
        encoder, expected = Encoder(tokenizer), Encoder(tokenizer).encode(texts)
        found = encoder.encode_prompts(texts)
        assert all(map(np.array_equal, found, expected))


def test_a_tokenizer_that_looks_far_back_gets_complete_prompts():
    """Here a late word changes the start of the ids: the check fails, and the shortcut is not used."""
    tokenizer = byte_tokenizer(TEXTS)
    far = normalizers.Replace(Regex(r"On bread[\s\S]*What"), "What")
    tokenizer.backend_tokenizer.normalizer = far
    start = "On bread.\n\n" + "".join(SHOTS) * 9
    texts = [start + asked for asked in reversed(ASKED[:3] * 2)]
    texts += [start + f"Which {k}?" for k in range(4)]
    encoder, expected = Encoder(tokenizer), Encoder(tokenizer).encode(texts)
    assert len(expected[0]) < 5 < len(expected[1])
    found = encoder.encode_prompts(texts)
    assert not encoder.local and all(map(np.array_equal, found, expected))
