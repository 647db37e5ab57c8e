"""All model families of the presets: the engine's results equal those of plain computation."""

import pytest
import torch
from conftest import save_random_model
from expertchat import chat
from expertchat.engine.interface import Question, Request
from expertchat.engine.local import LocalEngine
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

pytestmark = pytest.mark.slow

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "mistral with a window": {"sliding_window": 16},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 16},
    "phi": {},
    "phi3": {"sliding_window": None},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "mpt": {},
    "qwen2": {},
    "falcon": {},
    "falcon with alibi": {"alibi": True},
    "bloom": {"n_head": 4, "hidden_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
}
# families whose cached keys and values cannot be reused
RECOMPUTED = {"mistral with a window", "gemma2", "mpt", "falcon with alibi", "bloom", "lfm2", "jamba"}
TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]
GREEDY = Decoding(strategy="greedy", max_new_tokens=16)


def said(text, role="user"):
    return {"role": role, "content": text}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def engine(family, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    # with tied embeddings a random model would repeat the last token
    changes = FAMILIES[family] | {"tie_word_embeddings": False}
    save_random_model(family.split()[0], tokenizer, folder, **changes)
    return LocalEngine(folder, Load(), batch_size=32)


def plain_greedy(engine, messages, limit):
    """The reply's ids, by one forward pass per token over the complete text, without a cache."""
    ids = chat.encode(engine.tokenizer, messages)
    made = []
    with torch.no_grad():
        while len(made) < limit:
            logits = engine.model(torch.tensor([ids + made]), use_cache=False).logits
            token = logits[0, -1].argmax().item()
            if token in engine.end_ids:
                break
            made.append(token)
    return made


def test_replies_are_those_of_a_plain_loop_without_a_cache(engine):
    asked = [Request([said(text)], 0) for text in TEXTS]
    found = engine.generate(asked, GREEDY)
    expected = [plain_greedy(engine, request.messages, 16) for request in asked]
    decode = engine.tokenizer.decode
    assert [reply.text for reply in found] == [
        decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]
    assert [reply.tokens for reply in found] == list(map(len, expected))
    assert len(set(map(tuple, expected))) > 2  # the replies differ


def test_what_is_drawn_does_not_depend_on_the_batch(engine, monkeypatch):
    decoding = Decoding(max_new_tokens=24, stop=["a"])
    asked = [Request([said(TEXTS[i % 3])], i) for i in range(12)]
    together = engine.generate(asked, decoding)
    monkeypatch.setattr(engine.batches, "max_size", 1)
    assert engine.generate(asked, decoding) == together
    assert len({reply.tokens for reply in together}) > 2  # rows left the batch at different times


def talk(engine, session):
    messages, replies = [[said(text)] for text in TEXTS], []
    for turn in range(3):
        # seeds from 100: with seed 10 a draw of qwen2 is within rounding (1e-7) of another token
        seeds = range(100 + 9 * turn, 109 + 9 * turn)
        asked = [Request(list(m), seeds[i], f"d{i}" * session) for i, m in enumerate(messages)]
        replies.append(engine.generate(asked, Decoding(max_new_tokens=12)))
        for message, reply in zip(messages, replies[-1], strict=True):
            message += [said(reply.text or "nothing", "assistant"), said(f"go on {turn}")]
    return replies


def test_a_session_continues_as_if_it_were_recomputed(engine, family):
    recomputed = talk(engine, False)
    assert talk(engine, True) == recomputed
    assert bool(engine.sessions.used) == (family not in RECOMPUTED)


def test_answers_have_the_probabilities_of_plain_forward_passes(engine):
    ends = (" for A", " B, at 220 degrees", "")
    groups = [[Question([said(text + end)], [" 1", "Topic rye"]) for end in ends] for text in TEXTS]
    found = engine.answer_logprobs(groups)
    for group, results in zip(groups, found, strict=True):
        for question, logprobs in zip(group, results, strict=True):
            prompt = chat.encode(engine.tokenizer, question.prompt)
            for answer, logprob in zip(question.answers, logprobs.tolist(), strict=True):
                ids = engine.tokenizer.encode(answer, add_special_tokens=False)
                with torch.no_grad():
                    logits = engine.model(torch.tensor([prompt + ids]), use_cache=False).logits
                each = logits[0, len(prompt) - 1 : -1].log_softmax(-1)[range(len(ids)), ids]
                assert logprob == pytest.approx(each.sum().item(), abs=1e-5)


def test_the_engine_reports_once_that_it_recomputes_prompts(engine, family, capfd):
    again = LocalEngine(engine.model.name_or_path, Load(), 4)
    again.generate([Request([said("Rate")], 0)], GREEDY)
    assert capfd.readouterr().err.count("are recomputed") == (family in RECOMPUTED)
