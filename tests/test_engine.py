"""Both operations equal plain computation, in any batch."""

import numpy as np
import pytest
import torch
from conftest import save_random_model
from expertchat.engine import Engine, draw, load_model, nucleus
from expertchat.errors import UserError
from expertchat.probes import Probe, answer_ids, shared_length
from expertchat.settings.models import Load
from expertchat.settings.sampling import Sampling

TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]


@pytest.fixture(scope="module")
def engine(model_folder):
    return Engine(model_folder, Load(), batch_size=32)


def prompts(engine):
    return [engine.tokenizer.encode(text) for text in TEXTS]


def test_greedy_equals_transformers_generate_row_by_row(engine):
    found = engine.generate(prompts(engine), range(5), Sampling(temperature=0, max_new_tokens=12))
    for prompt, completion in zip(prompts(engine), found, strict=True):
        ids = torch.tensor([prompt])
        expected = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )[0, len(prompt) :].tolist()
        assert completion.ids == [t for t in expected if t not in engine.ends]
        assert completion.finish_reason == ("stop" if expected[-1] in engine.ends else "length")


def test_a_draw_depends_on_its_seed_and_not_on_its_batch(model_folder, engine):
    sampling = Sampling(max_new_tokens=16)
    together = engine.generate(prompts(engine), range(5), sampling)
    alone = Engine(model_folder, Load(), batch_size=1).generate(prompts(engine), range(5), sampling)
    assert together == alone
    assert engine.generate(prompts(engine), range(5, 10), sampling) != together


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(20_000, 1)
    uniform = torch.from_numpy(np.random.default_rng(0).random(20_000))
    counts = torch.bincount(draw(logits, uniform, Sampling()), minlength=3) / 20_000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.012)
    squared = torch.bincount(draw(logits, uniform, Sampling(temperature=0.5)), minlength=3) / 20_000
    assert squared.tolist() == pytest.approx([0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38], abs=0.012)


def test_the_nucleus_keeps_the_token_that_crosses_the_limit():
    probabilities = torch.tensor([[0.2, 0.5, 0.3]])
    assert nucleus(probabilities, 0.6)[0].tolist() == pytest.approx([0, 0.625, 0.375])
    assert nucleus(probabilities, 0.4)[0].tolist() == pytest.approx([0, 1, 0])


def plain_logprob(model, prompt, answer):
    logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + k, t].item() for k, t in enumerate(answer))


def test_answer_logprobs_equal_plain_forward_passes_batched_and_ragged(engine):
    encode = engine.tokenizer.encode
    groups = []
    for text in TEXTS:
        shared = encode(text)
        groups.append([Probe(shared + encode(t)[1:], [[5], [9]]) for t in (" for A", " B", " co")])
    groups.append([Probe(encode("Topic: rye"), [[7, 8, 9], [4], [11, 12]])])
    with torch.no_grad():
        for group, found in zip(groups, engine.answer_logprobs(groups), strict=True):
            for probe, logprobs in zip(group, found, strict=True):
                plain = [plain_logprob(engine.model, probe.prompt, a) for a in probe.answers]
                assert logprobs.tolist() == pytest.approx(plain, abs=1e-5)


def test_a_group_must_share_its_start(engine):
    with pytest.raises(ValueError, match="same token"):
        engine.answer_logprobs([[Probe([5, 6], [[1]]), Probe([7, 6], [[1]])]])


def test_each_prompt_keeps_a_token_of_its_own():
    assert shared_length([Probe([1, 2, 3], [[4]])]) == 2
    assert shared_length([Probe([1, 2, 3], [[4]]), Probe([1, 2], [[4]])]) == 1


def test_answers_that_are_the_same_tokens_are_an_error(tokenizer):
    prompt = tokenizer.encode("Rate A:", add_special_tokens=False)
    assert len(answer_ids(tokenizer, prompt, "Rate A:", [" 1", " 2"])) == 2
    with pytest.raises(UserError, match="same tokens"):
        answer_ids(tokenizer, prompt, "Rate A:", [" 1", " 1"])


def test_an_adapter_changes_what_the_engine_says(llama_folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(llama_folder)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path)
    tuned, plain = (Engine(llama_folder, Load(), 4, a) for a in (tmp_path, None))
    group = [[Probe(plain.tokenizer.encode("Topic: bread"), [[5], [6]])]]
    assert not np.allclose(tuned.answer_logprobs(group)[0][0], plain.answer_logprobs(group)[0][0])


def test_no_pickled_weights_are_read(llama_folder, tmp_path):
    import shutil

    shutil.copytree(llama_folder, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, tmp_path / "m" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        Engine(tmp_path / "m", Load(), 4)


def lora_gradient(folder, forward_first: bool) -> torch.Tensor:
    """The gradient of a LoRA adapter on a 4-bit model, with or without a forward pass before."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        load_model(folder, Load(quantization="nf4")),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    ids = torch.arange(4, 36).unsqueeze(0)
    if forward_first:
        with torch.no_grad():
            model(ids)
    model(ids, labels=ids).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_gradients_through_4_bit_weights_survive_a_forward_pass_without_gradients(tokenizer, tmp_path):
    folder = save_random_model("llama", tokenizer, tmp_path, hidden_size=64, intermediate_size=128)
    before, after = (lora_gradient(folder, first) for first in (False, True))
    assert torch.cosine_similarity(before, after, dim=0) > 0.999


def test_fused_experts_are_refused_before_their_weights_are_read(tokenizer, tmp_path):
    folder = save_random_model("mixtral", tokenizer, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="4 fused experts"):
        load_model(folder, Load(quantization="nf4"))
