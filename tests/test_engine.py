"""`generate` and `answer_logprobs` equal plain computation, in any batch, with any cache."""

import numpy as np
import pytest
import torch
from conftest import count_tokens, save_random_model
from expertchat import chat
from expertchat.engine.backbone import project
from expertchat.engine.batches import Batches
from expertchat.engine.interface import Question, Request
from expertchat.engine.local import LocalEngine
from expertchat.engine.score.tokenized import TokenizedQuestion, answer_ids
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]
GREEDY = Decoding(strategy="greedy", max_new_tokens=12)


def said(text, role="user"):
    return {"role": role, "content": text}


def requests(seeds=range(5)):
    return [Request([said(text)], seed) for text, seed in zip(TEXTS, seeds, strict=True)]


@pytest.fixture(scope="module")
def engine(model_folder):
    return LocalEngine(model_folder, Load(), batch_size=32)


@pytest.fixture
def forward_tokens(engine, monkeypatch):
    """The number of tokens (rows times length) of each forward pass of the model."""
    return count_tokens(engine, monkeypatch)


def plain_greedy(engine, messages, limit):
    prompt = chat.encode(engine.tokenizer, messages)
    ids = torch.tensor([prompt])
    made = engine.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit
    )
    return [t for t in made[0, len(prompt) :].tolist() if t not in engine.end_ids]


def test_greedy_equals_transformers_generate_row_by_row(engine):
    found = engine.generate(requests(), GREEDY)
    for request, reply in zip(requests(), found, strict=True):
        expected = plain_greedy(engine, request.messages, 12)
        text = engine.tokenizer.decode(expected, skip_special_tokens=True).strip()
        assert (reply.text, reply.tokens) == (text, len(expected))
        assert reply.finish_reason == ("length" if len(expected) == 12 else "stop")


def test_a_draw_depends_on_its_seed_and_not_on_its_batch(model_folder, engine):
    decoding = Decoding(max_new_tokens=24, stop=["a"])
    many = [Request([said(TEXTS[i % 5])], i) for i in range(32)]
    together = engine.generate(many, decoding)
    alone = LocalEngine(model_folder, Load(), batch_size=1).generate(many, decoding)
    assert together == alone
    assert len({reply.tokens for reply in together}) > 2  # rows left the batch at different times
    assert engine.generate(requests(range(5, 10)), decoding) != together[:5]


def talk(engine, decoding, turns=4, session=True):
    """Holds several conversations with the model; returns a list of replies per turn."""
    messages = [[said(text)] for text in TEXTS]
    replies = []
    for turn in range(turns):
        asked = [
            Request(list(m), 100 * turn + i, f"d{i}" if session else None)
            for i, m in enumerate(messages)
        ]
        replies.append(engine.generate(asked, decoding))
        for message, reply in zip(messages, replies[-1], strict=True):
            message += [said(reply.text or "nothing", "assistant"), said(f"go on {turn}")]
    return replies


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(max_new_tokens=12)], ids=["greedy", "sampling"])
def test_a_session_continues_as_if_it_were_recomputed(engine, decoding, forward_tokens):
    recomputed = talk(engine, decoding, session=False)
    reading_all = sum(forward_tokens)
    forward_tokens.clear()
    assert talk(engine, decoding) == recomputed
    assert sum(forward_tokens) < 0.75 * reading_all
    engine.sessions.clear()


def test_sessions_that_do_not_fit_are_recomputed(engine):
    recomputed = talk(engine, GREEDY, session=False)
    budget, engine.sessions.budget = engine.sessions.budget, 30_000
    assert talk(engine, GREEDY) == recomputed
    assert 0 < engine.sessions.used <= 30_000
    engine.sessions.budget = budget
    engine.sessions.clear()


def test_one_prompt_of_many_replies_is_read_once(engine, forward_tokens):
    many = [Request([said(TEXTS[1])], seed, "d") for seed in range(8)]
    replies = engine.generate(many, Decoding(max_new_tokens=6))
    assert forward_tokens[0] == len(chat.encode(engine.tokenizer, many[0].messages))
    forward_tokens.clear()
    assert engine.generate(many, Decoding(max_new_tokens=6)) == replies
    assert forward_tokens[0] == 1  # the last token, whose logits are needed; the others were cached
    engine.sessions.clear()


def test_a_full_memory_halves_the_batch_and_changes_nothing(engine, monkeypatch):
    expected = engine.generate(requests(), GREEDY)
    forward = engine.model.model.forward

    def small(*arguments, **kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*arguments, **kwargs)

    monkeypatch.setattr(engine.model.model, "forward", small)
    monkeypatch.setattr(engine, "batches", Batches(32))
    assert engine.generate(requests(), GREEDY) == expected
    assert engine.batches.max_size == 2
    monkeypatch.setattr(engine.model.model, "forward", lambda **_: small(input_ids=[0] * 3))
    with pytest.raises(UserError, match="single sequence"):
        engine.generate(requests(), GREEDY)


def test_a_full_memory_first_clears_cached_conversations(engine, monkeypatch):
    expected = talk(engine, GREEDY, turns=1)
    assert engine.sessions.used > 0
    forward = engine.model.model.forward

    def full_of_sessions(*arguments, **kwargs):
        if engine.sessions.used > 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*arguments, **kwargs)

    monkeypatch.setattr(engine.model.model, "forward", full_of_sessions)
    most = engine.batches.max_size
    assert talk(engine, GREEDY, turns=1) == expected
    assert engine.batches.max_size == most


def test_other_errors_are_not_treated_as_a_full_memory():
    def wrong(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Batches(4).run([1, 2], wrong, 2))


def test_a_stop_text_ends_a_reply_and_is_cut_off(engine):
    free = engine.generate(requests(), GREEDY)
    stop = next(reply.text[3:5] for reply in free if len(reply.text) > 6)
    stopped = engine.generate(requests(), GREEDY.model_copy(update={"stop": [stop]}))
    assert any(a != b for a, b in zip(free, stopped, strict=True))
    for before, after in zip(free, stopped, strict=True):
        assert stop not in after.text and before.text.startswith(after.text)
        assert after.finish_reason == ("stop" if stop in before.text else before.finish_reason)


def test_grace_tokens_let_a_sentence_end(engine):
    decoding = Decoding(max_new_tokens=4, grace_tokens=60)
    replies = engine.generate([Request([said(TEXTS[0])], seed) for seed in range(64)], decoding)
    ended = [reply for reply in replies if reply.finish_reason == "sentence"]
    assert ended and all(reply.text.rstrip("'\" )]")[-1] in ".!?" for reply in ended)
    assert all(4 <= reply.tokens <= 64 for reply in ended)
    assert all(reply.tokens == 64 for reply in replies if reply.finish_reason == "length")


def plain_logprob(model, prompt, answer):
    logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + k, t].item() for k, t in enumerate(answer))


def test_answer_logprobs_equal_plain_forward_passes_batched_and_ragged(engine):
    encode = engine.tokenizer.encode
    groups = []
    for text in TEXTS:
        shared = encode(text)
        groups.append(
            [TokenizedQuestion(shared + encode(t)[1:], [[5], [9]]) for t in (" for A", " B", " co")]
        )
    groups.append([TokenizedQuestion(encode("Topic: rye"), [[7, 8, 9], [4], [11, 12]])])
    groups.append(
        [TokenizedQuestion(encode("Topic: " + "rye " * k), [[7]]) for k in range(1, 120)]
    )  # many short branches
    with torch.no_grad():
        for group, found in zip(groups, engine.score(groups), strict=True):
            for each, logprobs in zip(group, found, strict=True):
                plain = [plain_logprob(engine.model, each.prompt, a) for a in each.answers]
                assert logprobs.tolist() == pytest.approx(plain, abs=1e-5)


def test_the_start_of_a_group_is_read_once(engine, forward_tokens):
    start = "Topic: " + "rye bread " * 30
    groups = [[Question([said(start + end)], ["0", "1"]) for end in ("A", "B", "coherence")]]
    engine.answer_logprobs(groups)
    forward_tokens.clear()
    engine.answer_logprobs(groups)
    whole = [len(chat.encode(engine.tokenizer, q.prompt)) for q in groups[0]]
    assert len(forward_tokens) == 1 and forward_tokens[0] < 1.3 * max(whole)


def test_a_full_memory_changes_no_probability(engine, monkeypatch):
    groups = [[Question(text + end, [" A", " B"]) for end in (" one", " two")] for text in TEXTS]
    expected = engine.answer_logprobs(groups)
    done = []
    monkeypatch.setattr(engine, "passes", Batches(1))
    found = engine.answer_logprobs(groups, lambda questions, *_: done.append(questions))
    assert sum(done) == sum(map(len, groups))
    for a, b in zip(found, expected, strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("method", ["forest", "whole"])
def test_progress_reports_the_questions_and_the_tokens_of_each_pass(
    method, engine, forward_tokens, monkeypatch
):
    groups = [[Question(text + end, [" A", " B"]) for end in (" one", " two")] for text in TEXTS]
    monkeypatch.setattr(engine, "_method", method)
    for batches in ("passes", "batches"):
        monkeypatch.setattr(engine, batches, Batches(2))
    calls: list[tuple] = []
    forward_tokens.clear()
    engine.answer_logprobs(groups, lambda *call: calls.append(call))
    assert len(calls) > 1 and sum(call[0] for call in calls) == sum(map(len, groups))
    read, padded = sum(call[1] for call in calls), sum(forward_tokens)
    assert read == padded if method == "forest" else 0.5 * padded < read <= padded


def test_sequences_too_long_for_the_model_are_refused(tokenizer, tmp_path):
    folder = save_random_model("llama", tokenizer, tmp_path, max_position_embeddings=64)
    engine = LocalEngine(folder, Load(), 4)
    with pytest.raises(UserError, match=r"tokens, but the model reads at most 64"):
        engine.generate([Request([said("bread")], 0)], Decoding(max_new_tokens=64))
    with pytest.raises(UserError, match="reads at most 64"):
        engine.answer_logprobs([[Question("bread " * 100, [" A", " B"])]])
    with pytest.raises(UserError, match="reads at most 64"):
        engine.answer_logprobs([[Question("bread", ["bread " * 100])]])


def test_whole_prompts_give_the_same_probabilities(engine, monkeypatch, forward_tokens):
    groups = [[Question(text + end, [" A", " bread"]) for end in (" one", " two")] for text in TEXTS]
    packed, done = engine.answer_logprobs(groups), []
    monkeypatch.setattr(engine, "_method", "whole")
    engine.answer_logprobs(groups, lambda questions, *_: done.append(questions))
    assert sum(done) == sum(map(len, groups))
    forward_tokens.clear()
    engine.answer_logprobs([[Question(TEXTS[1], list("0123"))]])
    assert sum(forward_tokens) == len(engine.tokenizer.encode(TEXTS[1]))  # once for all scores
    for a, b in zip(engine.answer_logprobs(groups), packed, strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_answers_that_are_the_same_tokens_are_an_error_only_where_they_must_differ(tokenizer):
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    prompt = tokenizer.encode("Rate A:", add_special_tokens=False)
    one, two = answer_ids(tokenizer, prompt, "Rate A:", [" 1", " 2"])
    assert one != two
    assert answer_ids(tokenizer, prompt, "Rate A:", [" 1", " 1"]) == [one, one]
    lower = Tokenizer(models.BPE({"a": 0, ":": 1}, []))
    lower.normalizer = normalizers.Lowercase()
    blind = PreTrainedTokenizerFast(tokenizer_object=lower)
    with pytest.raises(UserError, match="same tokens"):
        answer_ids(blind, [1], ":", ["a", "A"])
    assert answer_ids(blind, [1], ":", ["a", "A"], distinct=False) == [[0], [0]]


def test_adapters_are_loaded_once_and_switched(llama_folder, adapters):
    questions = [[Question("Topic: bread", ["A", "B"])]]

    def answer(engine, adapter):
        engine.use(adapter)
        return engine.answer_logprobs(questions)[0][0].tolist()

    choices = [None, *adapters]
    separate = [answer(LocalEngine(llama_folder, Load(), 4), choice) for choice in choices]
    assert len({tuple(a) for a in separate}) == 3
    switching = LocalEngine(llama_folder, Load(), 4)
    found = [answer(switching, choices[i]) for i in (1, 2, 0, 1, 0, 2)]
    assert found == [pytest.approx(separate[i]) for i in (1, 2, 0, 1, 0, 2)]
    assert len(switching.model.peft_config) == 2


@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_the_output_heads(bias):
    head, states = torch.nn.Linear(8, 50, bias=bias), torch.randn(3, 8)
    logits = project(head, states)
    assert torch.allclose(logits, head(states), atol=1e-6) and logits.is_contiguous()


def test_a_head_of_its_own_kind_computes_its_logits_itself():
    class Scaled(torch.nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    head, states = Scaled(8, 50), torch.randn(3, 8)
    assert torch.equal(project(head, states), head(states))


def test_a_repetition_penalty_is_applied_row_by_row_in_any_batch(model_folder, engine):
    decoding = Decoding(strategy="greedy", max_new_tokens=12, repetition_penalty=1.5)
    together = engine.generate(requests(), decoding)
    alone = LocalEngine(model_folder, Load(), batch_size=1).generate(requests(), decoding)
    assert together == alone != engine.generate(requests(), GREEDY)
    for request, reply in zip(requests(), together, strict=True):
        prompt = chat.encode(engine.tokenizer, request.messages)
        ids = torch.tensor([prompt])
        made = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            repetition_penalty=1.5,
        )
        expected = [t for t in made[0, len(prompt) :].tolist() if t not in engine.end_ids]
        assert reply.text == engine.tokenizer.decode(expected, skip_special_tokens=True).strip()
