"""Models whose rotary embeddings change with the length: a result depends on its own text only."""

import numpy as np
import pytest
import torch
from conftest import save_random_model
from expertchat import chat
from expertchat.engine.generate.cache import is_reusable
from expertchat.engine.interface import Question, Request
from expertchat.engine.local import LocalEngine
from expertchat.engine.rotation import is_long, long_rope_limit, rotate_as
from expertchat.engine.training import check_lengths
from expertchat.errors import UserError
from expertchat.policies.policy import make_policy
from expertchat.records import write_records
from expertchat.replies.contexts import contexts_for
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO
from transformers import AutoConfig

pytestmark = pytest.mark.slow

LIMIT = 48
FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.0, 4.0, 9.0, 16.0]}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 10000.0, **FACTORS}
MODELS = {
    "phi3": {"sliding_window": None},
    "phi3 with a window that is longer than any text": {"sliding_window": 400},
    "phi3 with a window": {"sliding_window": 16},
}
SENTENCE = "I bake rye bread at 220 degrees. "
TEXTS = ["Topic: bread.", SENTENCE, 2 * SENTENCE, 4 * SENTENCE, 4 * SENTENCE + "Topic", "Rate A"]
GREEDY = Decoding(strategy="greedy", max_new_tokens=30)


def said(text, role="user"):
    return {"role": role, "content": text}


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def engine(kind, tokenizer, tmp_path_factory):
    folder = save_random_model(
        "phi3",
        tokenizer,
        tmp_path_factory.mktemp("phi3"),
        max_position_embeddings=200,
        original_max_position_embeddings=LIMIT,
        rope_parameters=LONG_ROPE,
        tie_word_embeddings=False,
        **MODELS[kind],
    )
    return LocalEngine(folder, Load(), batch_size=32)


def encoded(engine, text):
    return chat.encode(engine.tokenizer, [said(text)])


def plain_greedy(engine, prompt, limit):
    """The reply's ids, by one forward pass per token over the complete text of one row."""
    made = []
    with torch.no_grad():
        while len(made) < limit:
            logits = engine.model(torch.tensor([prompt + made]), use_cache=False).logits
            token = logits[0, -1].argmax().item()
            if token in engine.end_ids:
                break
            made.append(token)
    return made


def plain_logprob(engine, prompt, answer):
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        logits = engine.model(ids, use_cache=False).logits
    each = logits[0, len(prompt) - 1 :].log_softmax(-1)[range(len(answer)), answer]
    return each.sum().item()


def test_texts_are_short_cross_the_limit_and_are_long(engine):
    """So that the tests below test something, and the factors change what is written."""
    lengths = [len(encoded(engine, text)) for text in TEXTS]
    assert min(lengths) + 30 < LIMIT < max(lengths)
    assert any(length <= LIMIT < length + 30 for length in lengths)
    assert long_rope_limit(engine.model.config) == LIMIT
    crossing = next(t for t, n in zip(TEXTS, lengths, strict=True) if n <= LIMIT < n + 30)
    prompt = encoded(engine, crossing)
    with rotate_as(engine.model, long=False):
        short_only = plain_greedy(engine, prompt, 30)
    assert len(prompt) + len(short_only) > LIMIT
    assert short_only != plain_greedy(engine, prompt, 30)


def test_replies_are_those_of_a_plain_loop_without_a_cache(engine):
    """Rows of a batch stay short, pass the limit, or are long from the start."""
    found = engine.generate([Request([said(text)], 0) for text in TEXTS], GREEDY)
    expected = [plain_greedy(engine, encoded(engine, text), 30) for text in TEXTS]
    assert [r.tokens for r in found] == list(map(len, expected))
    decode = engine.tokenizer.decode
    assert [r.text for r in found] == [decode(e, skip_special_tokens=True).strip() for e in expected]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_what_is_drawn_does_not_depend_on_longer_neighbours(engine, penalty):
    decoding = Decoding(max_new_tokens=30, stop=["a"], repetition_penalty=penalty)
    asked = [Request([said(text)], seed) for text in TEXTS for seed in range(2)]
    together = engine.generate(asked, decoding)
    assert [engine.generate([request], decoding)[0] for request in asked] == together
    assert len({reply.tokens for reply in together}) > 2  # rows left the batch at different times


def talk(engine, session):
    messages, replies = [[said(text)] for text in TEXTS[:3]], []
    for turn in range(5):
        asked = [Request(list(m), 7 * turn + i, f"d{i}" * session) for i, m in enumerate(messages)]
        replies.append(engine.generate(asked, Decoding(max_new_tokens=12)))
        for message, reply in zip(messages, replies[-1], strict=True):
            message += [said(reply.text or "nothing", "assistant"), said(f"go on {turn}")]
    lengths = [len(chat.encode(engine.tokenizer, m)) for m in messages]
    assert min(lengths) > LIMIT
    return replies


def test_sessions_that_cross_the_limit_continue_as_if_they_were_recomputed(engine, kind):
    assert talk(engine, True) == talk(engine, False)
    assert bool(engine.sessions.used) == (kind != "phi3 with a window")
    engine.sessions.clear()


def test_a_cached_prefix_is_not_used_for_a_text_of_the_other_length(engine):
    """The same beginning, first short and then long, then short again."""
    for text in (SENTENCE, 6 * SENTENCE, SENTENCE + "Rate"):
        asked = Request([said(text)], 3, "same")
        fresh = Request([said(text)], 3)
        assert engine.generate([asked], GREEDY) == engine.generate([fresh], GREEDY)
    engine.sessions.clear()


def test_answers_have_the_probabilities_of_forward_passes_of_one_row(engine):
    """Short and long prompts in one call, and answers that pass the limit beside some that do not."""
    answers = [" 1", SENTENCE.strip(), 3 * SENTENCE]
    texts = [*TEXTS, *(SENTENCE + "Topic: bread. " * k for k in range(1, 5))]
    groups = [[Question([said(text)], answers) for text in texts]]
    (found,) = engine.answer_logprobs(groups)
    tokenized = engine.encoder.tokenize(groups[0])
    classes = set()
    for question, logprobs in zip(tokenized, found, strict=True):
        prompt = list(map(int, question.prompt))
        expected = [plain_logprob(engine, prompt, list(answer)) for answer in question.answers]
        assert np.allclose(logprobs, expected, atol=1e-5)
        classes.add(tuple(len(prompt) + len(a) - 1 > LIMIT for a in question.answers))
    assert len(classes) > 2


def test_contrastive_search_is_refused_only_where_a_reply_can_cross_the_limit(engine, kind):
    if kind == "phi3 with a window":
        return
    decoding = Decoding(strategy="contrastive", max_new_tokens=6)
    within = [Request([said(text)], 0) for text in (TEXTS[0], TEXTS[3])]
    together = engine.generate(within, decoding)
    assert together == [engine.generate([request], decoding)[0] for request in within]
    lengths = [len(encoded(engine, text)) for text in TEXTS]
    assert any(n <= LIMIT < n + 40 for n in lengths)
    with pytest.raises(UserError, match=f"contrastive; a reply may end after token {LIMIT}"):
        longer = decoding.model_copy(update={"max_new_tokens": 40})
        engine.generate([Request([said(text)], 0) for text in TEXTS], longer)


def test_rotation_contexts_restore_what_was_before(engine):
    (rotary,) = [m for m in engine.model.modules() if hasattr(m, "rope_type")]
    with rotate_as(engine.model, long=False):
        short = rotary.inv_freq.clone()
    rotary.inv_freq.copy_(short)
    with rotate_as(engine.model, long=True):
        long = rotary.inv_freq.clone()
        with rotate_as(engine.model, long=False):
            assert torch.equal(rotary.inv_freq, short)
        assert torch.equal(rotary.inv_freq, long)
    assert torch.equal(rotary.inv_freq, short) and rotary.rope_type == "longrope"
    assert torch.allclose(short / long, torch.tensor([1, 4 / 1.1, 9 / 1.3, 16 / 1.5]))


@pytest.fixture(scope="module")
def dynamic(tokenizer, tmp_path_factory):
    """A Llama with NTK scaling: its frequencies change after 64 tokens, which is all that it reads."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    folder = tmp_path_factory.mktemp("dynamic")
    save_random_model("llama", tokenizer, folder, rope_parameters=rope, max_position_embeddings=64)
    return LocalEngine(folder, Load(), 32)


def test_dynamic_scaling_is_constant_up_to_its_limit_and_longer_texts_are_refused(dynamic):
    assert is_reusable(dynamic.model)
    assert not is_long(dynamic.model.config, 64)
    texts = [text for text in TEXTS if len(encoded(dynamic, text)) + 12 <= 64]
    short = GREEDY.model_copy(
        update={"max_new_tokens": 64 - max(len(encoded(dynamic, t)) for t in texts)}
    )
    found = dynamic.generate([Request([said(text)], 0) for text in texts], short)
    for text, reply in zip(texts, found, strict=True):
        ids = plain_greedy(dynamic, encoded(dynamic, text), short.max_new_tokens)
        assert reply.text == dynamic.tokenizer.decode(ids, skip_special_tokens=True).strip()
    with pytest.raises(UserError, match="reads at most 64: lower turns, max_new_tokens"):
        dynamic.generate([Request([said(8 * SENTENCE)], 0)], short)
    with pytest.raises(UserError, match="reads at most 64"):
        dynamic.answer_logprobs([[Question([said(8 * SENTENCE)], [" 1", " 2"])]])


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3", "proportional"])
def test_other_rope_types_do_not_depend_on_the_length(tokenizer, tmp_path, kind):
    """One pass over a long text gives the same states at its beginning as a pass over the beginning."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind != "linear":
        rope["original_max_position_embeddings"] = 16
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = save_random_model("llama", tokenizer, tmp_path, rope_parameters=rope)
    model = LocalEngine(folder, Load(), 4).model
    ids = torch.arange(5, 69)[None]
    with torch.no_grad():
        whole, start = model(ids).logits[:, :8], model(ids[:, :8]).logits
    assert torch.allclose(whole, start, atol=1e-4)
    assert is_reusable(model) and long_rope_limit(model.config) is None


def test_phimoe_reads_no_more_than_its_short_factors_suit():
    """transformers rotates longer texts of this family by the short factors too."""
    from expertchat.engine.loading import context_tokens

    rope = LONG_ROPE | {"short_mscale": 1.0, "long_mscale": 1.2, "original_max_position_embeddings": 48}
    config = AutoConfig.for_model("phimoe", rope_parameters=rope, max_position_embeddings=200)
    assert context_tokens(config) == LIMIT


def test_training_refuses_sequences_that_a_batch_would_rotate_wrongly(engine):
    """Training mixes rows of all lengths; up to the limit no row changes the rotation of another."""
    folder = engine.folder
    check_lengths(folder, LIMIT)
    with pytest.raises(UserError, match=r"up to 49 tokens, but after 48 the model changes .*LongRoPE"):
        check_lengths(folder, LIMIT + 1)
    with pytest.raises(UserError, match="up to 201 tokens, but the model reads at most 200"):
        check_lengths(folder, 201)


def test_ppo_is_refused_if_a_prompt_with_its_reply_can_cross_the_limit(engine, tmp_path):
    names = {"speakers": ["a", "b"], "models": {"a": "a", "b": "b"}, "roles": {"a": "s", "b": "s"}}
    turns = [{"speaker": "a", "text": SENTENCE}, {"speaker": "b", "text": "Rye."}]
    write_records(
        tmp_path / "dialogues.jsonl",
        [
            {
                "dialogue_id": "d",
                "topic_id": "t",
                "split": "train",
                "topic": "bread",
                "turns": turns,
                **names,
            }
        ],
    )
    asked = {"speaker": "b", "turns": [1], "prompts": {"s": "{{ topic }}", "opening": "begin"}}
    with pytest.raises(UserError, match=f"after {LIMIT} the model changes its rotary factors"):
        make_policy(
            model_folder=engine.folder,
            load=Load(),
            contexts=contexts_for(asked, [tmp_path], None, "train"),
            reward_model=tmp_path,
            previous=None,
            settings=PPO(),
            decoding=Decoding(max_new_tokens=30),
            seed=0,
            batch_size=4,
            label="test",
            checkpoints=tmp_path,
            out=tmp_path,
        )
