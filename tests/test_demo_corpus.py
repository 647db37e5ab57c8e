"""The demo's documents, their packing, and models that are trained on them for a few steps."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from expertchat import chat, prompts
from expertchat.checkpoints import Checkpoints
from expertchat.demo import packing, training
from expertchat.demo.build import build_model
from expertchat.demo.corpus import (
    CATEGORIES,
    QUESTION_HEADER,
    Conversation,
    Plain,
    Ratings,
    documents,
    score,
)
from expertchat.demo.experts import use_dense_experts
from expertchat.demo.losses import CrossEntropy
from expertchat.demo.manner import Marks
from expertchat.demo.optimizer import matrices, schedule
from expertchat.demo.packing import Encoder, Weights, batches, visibility
from expertchat.demo.talk import Speech
from expertchat.demo.tokenizer import train_tokenizer
from expertchat.demo.wording import fill_cached, rating_prompt_cached
from expertchat.demo.world import QUESTIONS, build_world, halves, question

WORLD = build_world(0)
KNOWS = halves(WORLD)[0]
PROMPTS = prompts.read_prompts(Path(__file__).parents[1] / "config" / "prompts" / "demo")


def corpus(count: int, seed: int = 0) -> list:
    return list(islice(documents(WORLD, knows=KNOWS, seed=seed, prompts=PROMPTS), count))


@pytest.fixture(scope="module")
def tokenizer():
    texts = []
    for document in corpus(400, seed=9):
        match document:
            case Plain():
                texts.append(document.text)
            case Ratings():
                texts.append(document.prompt(PROMPTS["rating"], document.questions[-1]))
            case Conversation():
                texts += [message["content"] for message in document.messages]
    words = {w for f in WORLD.facts for w in (*f.alternatives, f.relation, *f.entity.split())}
    return train_tokenizer([*texts, *[f" {word}" for word in sorted(words)] * 30], 1920)


def test_corpus_follows_its_seed():
    assert corpus(50) == corpus(50)
    assert corpus(50) != corpus(50, seed=1)


def test_cached_rendering_equals_that_of_the_prompts():
    values = {"topic": "Saving money on a rug", "subject": "weaving"}
    assert fill_cached(PROMPTS["speaker"], **values) == prompts.fill(PROMPTS["speaker"], **values)
    turns = [("B", "Hello there."), ("A", "Good day.")]
    asked = dict(rated="A", scope="reply", category="coherence")
    values = prompts.rating_values(topic="a rug", turns=turns, **asked, description="", low=0, high=9)
    expected = prompts.fill(PROMPTS["rating"], **values)
    assert rating_prompt_cached(PROMPTS["rating"], "a rug", turns, **asked) == expected


def test_documents_are_well_formed():
    seen = Counter()
    for document in corpus(600):
        seen[document.kind] += 1
        match document:
            case Plain():
                head, *parts = document.text.split("\n\n")
                assert any(head == QUESTION_HEADER.format(subject=name) for name in WORLD.names)
                assert len(parts) == 6
                assert all(p.startswith("Question: ") and "?\nAnswer: " in p for p in parts)
            case Ratings():
                assert all(0 <= asked.score <= 9 for asked in document.questions)
                assert {asked.scope for asked in document.questions} == {"reply", "dialogue"}
                assert len({asked.rated for asked in document.questions}) == 1
                assert {label for label, _ in document.turns} <= {"A", "B"}
                for asked in document.questions:
                    said = [label for label, _ in document.turns[: asked.turns]]
                    assert asked.rated in said
                    assert asked.scope == "dialogue" or asked.rated == said[-1]
            case Conversation():
                roles = [message["role"] for message in document.messages]
                assert roles[-1] == "assistant"
                talked = [role for role in roles if role != "system"]
                assert all(a != b for a, b in pairwise(talked))
    assert set(seen) == {"topics", "dialogues", "ratings", "questions"}


def test_known_facts_are_right_in_questions_and_others_mostly_wrong():
    asked = {question(f, i): f for f in WORLD.facts for i in range(len(QUESTIONS))}
    right, seen = Counter(), Counter()
    for document in corpus(3000):
        if isinstance(document, Plain):
            for part in document.text.split("\n\n")[1:]:
                words, value = part.removeprefix("Question: ").split("\nAnswer: ")
                known = asked[words].subject in KNOWS
                seen[known] += 1
                right[known] += asked[words].value == value
    assert right[True] == seen[True] > 1000
    assert 0.1 < right[False] / seen[False] < 0.45


def test_scores_follow_from_the_marks():
    fact = WORLD.facts[0]
    all_good, all_bad = Marks(*[True] * 6), Marks(*[False] * 6)
    for category, weights in CATEGORIES.items():
        assert sum(weights) == pytest.approx(1)
        assert score(category, [Speech("A", "", all_good, fact)], informed=True) == 9
        assert score(category, [Speech("A", "", all_bad, fact)], informed=True) == 0
        both = [Speech("A", "", marks, fact) for marks in (all_good, all_bad)]
        assert score(category, both, informed=True) in (4, 5)
    false = [Speech("A", "", Marks(True, True, True, True, True, False), fact)]
    assert score("factual accuracy", false, informed=True) == 3  # 9 * 0.30 = 2.7
    assert score("factual accuracy", false, informed=False) == 6  # 9 * (0.30 + 0.35) = 5.85


def test_tokenizer_has_one_token_per_score_and_distinct_special_tokens(tokenizer):
    assert all(len(tokenizer.encode(str(i), add_special_tokens=False)) == 1 for i in range(10))
    assert len(tokenizer.encode("1234", add_special_tokens=False)) == 4
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer.encode("Question")[0] == tokenizer.bos_token_id
    text = "The right wood for a desk is oak, isn't it? 12 naïve 漢字"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_chat_template_supports_a_system_role(tokenizer):
    assert chat.takes_system(tokenizer)
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|begin|><|system|>x<|end|><|user|>y<|end|><|assistant|>"


def test_turns_are_short(tokenizer):
    said = [
        len(tokenizer.encode(message["content"], add_special_tokens=False))
        for document in corpus(500)
        if document.kind == "dialogues"
        for message in document.messages[2:]
    ]
    assert max(said) < 56
    assert 28 < np.mean(said) < 41


def test_each_branch_of_a_rating_document_equals_its_own_prompt(tokenizer):
    encoder = Encoder(tokenizer, PROMPTS, WORLD, Weights())
    for document in [d for d in corpus(60) if isinstance(d, Ratings)]:
        encoded = encoder(document)
        for number, asked in enumerate(document.questions, start=1):
            messages = [
                {"role": "user", "content": document.prompt(PROMPTS["rating"], asked)},
                {"role": "assistant", "content": str(asked.score)},
            ]
            branch = np.flatnonzero(encoded.branch == number)
            fork = encoded.fork[branch[0]]
            path = np.concatenate([np.arange(fork), branch])
            assert encoded.ids[path].tolist() == chat.encode(tokenizer, messages, reply=False)
            assert encoded.positions[path].tolist() == list(range(len(path)))
            assert encoded.weights[branch].argmax() == len(branch) - 2


def test_loss_weights_of_conversations_depend_on_roles(tokenizer):
    weights = Weights(assistant=1, user=0.5, system=0, fact=1)
    document = next(d for d in corpus(50) if d.kind == "dialogues" and len(d.messages) == 3)
    encoded = Encoder(tokenizer, PROMPTS, WORLD, weights)(document)
    ids = encoded.ids.tolist()
    reply = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>"))
    user = ids.index(tokenizer.convert_tokens_to_ids("<|user|>"))
    assert encoded.weights[: user + 1].sum() == 0
    assert set(encoded.weights[user + 1 : reply]) == {0.5}
    assert encoded.weights[reply] == 0
    assert set(encoded.weights[reply + 1 :]) == {1.0}
    assert ids[-1] == tokenizer.eos_token_id


def test_visibility_by_hand():
    # One document: trunk 0 1 2, a branch after two of these tokens, and another after all three.
    document = np.zeros((1, 6), dtype=int)
    positions = np.array([[0, 1, 2, 2, 3, 3]])
    branch = np.array([[0, 0, 0, 1, 1, 2]])
    fork = np.array([[packing.TRUNK_END] * 3 + [2, 2, 3]])
    seen = visibility(document, positions, branch, fork)[0]
    assert [np.flatnonzero(row).tolist() for row in seen] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 3],
        [0, 1, 3, 4],
        [0, 1, 2, 5],
    ]


def test_packed_documents_do_not_see_each_other(tokenizer):
    encoder = Encoder(tokenizer, PROMPTS, WORLD, Weights())
    packed = batches(map(encoder, corpus(80)), rows=4, length=320, pad=tokenizer.pad_token_id)
    batch = next(packed)
    assert batch.ids.shape == (4, 320)
    assert batch.tokens > 0.8 * batch.ids.size
    begins = np.argwhere(batch.ids == tokenizer.bos_token_id)
    assert len(begins) > 4
    for row, column in begins:
        assert batch.visible[row, column].sum() == 1
        assert batch.weights[row, column] == 0


def test_cross_entropy_and_its_gradient_equal_those_of_torch():
    logits = torch.randn(7, 11, requires_grad=True)
    targets, weights = torch.randint(0, 11, (7,)), torch.rand(7)
    reference = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad((reference * weights).sum(), logits)
    ours = CrossEntropy.apply(logits, targets)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    assert torch.allclose(ours, reference, atol=1e-5)
    assert torch.allclose(gradient, expected, atol=1e-2)


def test_learning_rate_rises_stays_constant_and_falls():
    factors = [schedule(step, 100, warmup=10, decay=0.5) for step in range(100)]
    assert factors[0] == 0.1 and factors[9] == 1 and factors[50] == 1
    assert factors[75] == pytest.approx(0.5) and factors[99] == pytest.approx(0.02)


def small(architecture: str, out: Path, seed: int = 0, **settings) -> dict:
    return build_model(
        out,
        architecture=architecture,
        knows=KNOWS,
        seed=seed,
        prompts=PROMPTS,
        steps=4,
        rows=2,
        length=288,
        hidden=32,
        layers=2,
        intermediate=64,
        vocabulary=600,
        tokenizer_documents=100,
        **settings,
    )


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_an_interrupted_training_ends_with_the_same_bytes(architecture, tmp_path, monkeypatch):
    expected = small(architecture, tmp_path / "whole")
    monkeypatch.setattr(Checkpoints, "due", True)  # after each step
    calls = iter([True, True, False])

    def losses(*arguments):
        if not next(calls, True):
            raise KeyboardInterrupt
        return training_losses(*arguments)

    training_losses = training.losses
    monkeypatch.setattr(training, "losses", losses)
    checkpoints, out = tmp_path / "checkpoints", tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        small(architecture, out, checkpoints=checkpoints)
    found = small(architecture, out, checkpoints=checkpoints)
    for name in ("tokens", "loss", "parameters"):
        assert found[name] == expected[name]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_a_built_model_loads_like_any_other_model(architecture, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = small(architecture, tmp_path)
    assert metrics["tokens"] > 1000 and metrics["seconds"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == architecture
    assert sum(p.numel() for p in model.parameters()) == metrics["parameters"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert (tmp_path / "model.safetensors").exists()
    ids = torch.tensor([chat.encode(tokenizer, [{"role": "user", "content": "Hello"}])])
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        if architecture == "mixtral":
            use_dense_experts(model)
            assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == len(tokenizer)


def test_matrices_share_memory_with_their_parameters():
    layer = torch.nn.Module()
    layer.layers = torch.nn.ModuleList([torch.nn.Linear(3, 4)])
    model = torch.nn.Module()
    model.body = layer
    views, others = matrices(model)
    assert [tuple(view.shape) for view in views] == [(4, 3)]
    assert [tuple(other.shape) for other in others] == [(4,)]
    model.body.layers[0](torch.ones(1, 3)).sum().backward()
    assert torch.equal(views[0].grad, torch.ones(4, 3))
    views[0].data.zero_()
    assert model.body.layers[0].weight.abs().sum() == 0


@pytest.mark.slow
def test_a_build_follows_its_seed(tmp_path):
    small("llama", tmp_path / "a")
    small("llama", tmp_path / "b")
    small("llama", tmp_path / "c", seed=1)
    read = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert read[0] == read[1] != read[2]


def test_an_unknown_architecture_or_subject_is_an_error_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="llama, mixtral"):
        build_model(tmp_path, architecture="gpt", knows=KNOWS, seed=0, prompts=PROMPTS)
    with pytest.raises(ValueError, match="astrology"):
        build_model(tmp_path, architecture="llama", knows=("astrology",), seed=0, prompts=PROMPTS)


def test_muon_in_float32_is_torchs_muon():
    """torch orthogonalizes in bfloat16, so updates differ by its rounding."""
    import torch
    from expertchat.demo.optimizer import Float32Muon

    torch.manual_seed(0)
    updated = []
    for kind in (torch.optim.Muon, Float32Muon):
        torch.manual_seed(1)
        matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (16, 16))]
        optimizer = kind(matrices, lr=0.1, weight_decay=0.01, momentum=0.95)
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape)
            optimizer.step()
        updated.append(matrices)
    for theirs, ours in zip(*updated, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
