"""Contrastive search gives the results of the paper's definition, in any batch, with any cache."""

import pytest
import torch
from conftest import save_random_model
from expertchat import chat
from expertchat.engine.generate.contrastive import candidate_mask, scores
from expertchat.engine.generate.sampling import draw
from expertchat.engine.interface import Request
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

pytestmark = pytest.mark.slow

TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]
CONTRASTIVE = Decoding(strategy="contrastive", max_new_tokens=10)


def said(text, role="user"):
    return {"role": role, "content": text}


def requests(texts=TEXTS, session=None):
    return [Request([said(text)], 0, session) for text in texts]


def changed(**changes):
    return CONTRASTIVE.model_copy(update=changes)


@pytest.fixture(scope="module")
def engine(model_folder):
    return LocalEngine(model_folder, Load(), batch_size=32)


@pytest.fixture
def read_tokens(engine):
    """The number of tokens (rows times length) of each forward pass of the model."""
    counts = []
    embeddings = engine.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, ids, out: counts.append(ids[0].numel()))
    yield counts
    hook.remove()
    engine.sessions.clear()


def plain_likelihood(logits, ids, penalty):
    """The next token's probabilities [V]; `penalty` as Keskar et al. write it."""
    logits = logits.clone()
    for token in set(ids):
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return logits.softmax(-1)


@torch.no_grad()
def plain_contrastive(model, prompt, ends, limit, k=4, alpha=0.6, penalty=1.0):
    """The paper's definition, one candidate at a time and without a cache: the reply's tokens."""
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        likelihood = plain_likelihood(logits, ids, penalty)
        best = None
        for token in likelihood.argsort(descending=True)[:k].tolist():
            output = model(torch.tensor([[*ids, token]]), use_cache=False, output_hidden_states=True)
            states = output.hidden_states[-1][0]
            similarity = max(torch.cosine_similarity(states[-1], s, dim=0).item() for s in states[:-1])
            score = (1 - alpha) * likelihood[token].item() - alpha * similarity
            if best is None or score > best[0]:
                best = score, token
        if best[1] in ends:
            return ids[len(prompt) :]
        ids.append(best[1])
    return ids[len(prompt) :]


def plain_reply(engine, text, **options):
    prompt = chat.encode(engine.tokenizer, [said(text)])
    ids = plain_contrastive(engine.model, prompt, engine.end_ids, 10, **options)
    return engine.tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"top_k": 7, "penalty_alpha": 0.9}, {"k": 7, "alpha": 0.9}),
        ({"penalty_alpha": 1.0, "repetition_penalty": 1.5}, {"alpha": 1.0, "penalty": 1.5}),
    ],
    ids=["default", "wide", "repetition penalty"],
)
def test_a_ragged_batch_equals_the_definition_row_by_row(engine, changes, options):
    found = engine.generate(requests(), changed(**changes))
    expected = [plain_reply(engine, text, **options) for text in TEXTS]
    assert [(reply.text, reply.tokens) for reply in found] == expected
    greedy = engine.generate(requests(), changed(strategy="greedy"))
    assert [reply.text for reply in found] != [reply.text for reply in greedy]


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [("granite", {"logits_scaling": 2.0}), ("gpt2", {}), ("gpt_neox", {})],
    ids=["logits that are more than a projection", "learned positions", "parallel layers"],
)
def test_other_architectures_equal_the_definition(architecture, changes, tokenizer, tmp_path):
    engine = LocalEngine(save_random_model(architecture, tokenizer, tmp_path, **changes), Load(), 32)
    found = engine.generate(requests(), CONTRASTIVE)
    assert [(r.text, r.tokens) for r in found] == [plain_reply(engine, text) for text in TEXTS]


def test_eager_attention_gives_the_same(llama_folder):
    engine = LocalEngine(llama_folder, Load(attention="eager"), batch_size=32)
    found = engine.generate(requests(), CONTRASTIVE)
    assert [(r.text, r.tokens) for r in found] == [plain_reply(engine, text) for text in TEXTS]


def test_an_adapter_changes_states_and_likelihood(llama_folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path)
    engine = LocalEngine(llama_folder, Load(), batch_size=32)
    without = engine.generate(requests(), CONTRASTIVE)
    engine.use(tmp_path)
    found = engine.generate(requests(), CONTRASTIVE)
    assert [(r.text, r.tokens) for r in found] == [plain_reply(engine, text) for text in TEXTS]
    assert found != without


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"penalty_alpha": 0.0}, {"top_k": 1, "stop": ["e"]}])
def test_one_candidate_or_no_penalty_is_greedy(engine, changes):
    greedy = changed(strategy="greedy", stop=changes.get("stop", []))
    assert engine.generate(requests(), changed(**changes)) == engine.generate(requests(), greedy)


def test_replies_do_not_depend_on_the_batch(model_folder, engine):
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS * 7)][:32]
    decoding = changed(max_new_tokens=24, stop=["a"])
    together = engine.generate(requests(texts), decoding)
    alone = LocalEngine(model_folder, Load(), batch_size=1).generate(requests(texts), decoding)
    assert together == alone
    assert len({reply.tokens for reply in together}) > 2  # rows left the batch at different times


def talk(engine, session, first=CONTRASTIVE):
    """Holds several conversations with the model; returns a list of replies per turn."""
    messages, replies = [[said(text)] for text in TEXTS], []
    for turn in range(4):
        asked = [Request(list(m), 0, f"d{i}" if session else None) for i, m in enumerate(messages)]
        replies.append(engine.generate(asked, changed(stop=["o"]) if turn else first))
        for message, reply in zip(messages, replies[-1], strict=True):
            message += [said(reply.text or "nothing", "assistant"), said(f"go on {turn}")]
    return replies


def test_a_session_continues_as_if_it_were_recomputed(engine, read_tokens):
    recomputed = talk(engine, session=False)
    reading_all = sum(read_tokens)
    read_tokens.clear()
    assert talk(engine, session=True) == recomputed
    assert sum(read_tokens) < 0.75 * reading_all
    for number in range(len(TEXTS)):
        prefix = engine.sessions.find(f"d{number}")
        assert len(prefix.ids) == len(prefix.states) == prefix.keys[0].shape[1]


def test_prefixes_cached_without_states_are_recomputed(engine, read_tokens):
    greedy = changed(strategy="greedy")
    assert talk(engine, True, first=greedy) == talk(engine, False, first=greedy)


def test_a_session_cached_here_serves_greedy_decoding(engine, read_tokens):
    greedy = changed(strategy="greedy")
    expected = engine.generate(requests(), greedy)
    engine.generate(requests(TEXTS[:1], "d"), CONTRASTIVE)
    read_tokens.clear()
    assert engine.generate(requests(TEXTS[:1], "d"), greedy) == expected[:1]
    assert read_tokens[0] == 1


def test_equal_prompts_are_read_once_and_cached(engine, read_tokens):
    replies = engine.generate(requests(TEXTS[1:2] * 8, "d"), CONTRASTIVE)
    assert read_tokens[0] == len(chat.encode(engine.tokenizer, [said(TEXTS[1])]))
    assert set(replies) == set(engine.generate(requests(TEXTS[1:2]), CONTRASTIVE))
    read_tokens.clear()
    assert engine.generate(requests(TEXTS[1:2] * 8, "d"), CONTRASTIVE) == replies
    assert read_tokens[0] == 1


def test_a_token_takes_one_forward_pass(engine, read_tokens):
    replies = engine.generate(requests(TEXTS[:1]), changed(top_k=3))
    passes = replies[0].tokens + (replies[0].finish_reason == "stop")
    assert read_tokens[1:] == [3] * passes


def test_scores_by_hand():
    before = torch.tensor([[[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]]])
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    likelihood, mask = torch.tensor([[0.5, 0.3]]), torch.tensor([[1, 0, 1]])
    # cosines with what counts: (0.6, 0) and (0.8, -1)
    expected = [0.75 * 0.5 - 0.25 * 0.6, 0.75 * 0.3 - 0.25 * 0.8]
    assert scores(likelihood, states, before, mask, 0.25)[0].tolist() == pytest.approx(expected)


def test_negative_similarity_is_not_clipped():
    found = scores(
        torch.tensor([[0.5]]), torch.tensor([[[-1.0]]]), torch.ones(1, 1, 1), torch.ones(1, 1), 0.5
    )
    assert found.item() == pytest.approx(0.5 * 0.5 + 0.5)


def test_a_candidate_attends_to_earlier_tokens_and_itself():
    mask = candidate_mask(torch.tensor([[0, 1], [1, 1]]), 3, torch.float32)
    seen = (mask == 0).int()[:, 0].tolist()
    assert seen[0] == [[0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert seen[1] == [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1]]


def test_models_that_cannot_read_candidates_are_named(tokenizer, tmp_path):
    folder = save_random_model("mpt", tokenizer, tmp_path)
    engine = LocalEngine(folder, Load(attention="eager"), 4)
    with pytest.raises(UserError, match=r"decoding\.strategy: contrastive.*mpt"):
        engine.generate(requests(), CONTRASTIVE)


def test_flash_attention_is_refused(engine, monkeypatch):
    monkeypatch.setattr(engine.model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(UserError, match=r"load\.attention"):
        engine.generate(requests(), CONTRASTIVE)


def test_contrastive_search_cannot_choose_from_logits_alone():
    with pytest.raises(ValueError, match="from logits alone"):
        draw(torch.zeros(1, 3), torch.zeros(1), CONTRASTIVE)
