"""Supervised fine-tuning: what the loss counts, what is learned, and what resumes."""

import copy

import pytest
import torch
from expertchat.chat import PLAIN
from expertchat.checkpoints import Checkpoints
from expertchat.engine.interface import Source
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.engine.opening import open_engine
from expertchat.errors import UserError
from expertchat.records import read_json, write_records
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.sft import Tuning
from expertchat.sft import training
from expertchat.sft.artifact import LOSSES
from expertchat.sft.encoding import IGNORED, Encoded, encode_conversation, shortened
from expertchat.sft.training import compared, largest_divisor, losses_of, tune_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

pytestmark = pytest.mark.slow

ASKED = [
    {"role": "user", "content": "Which bread?"},
    {"role": "assistant", "content": "Rye bread."},
    {"role": "user", "content": "How hot?"},
    {"role": "assistant", "content": "220 degrees."},
]


def counted(tokenizer, encoded):
    """The text of the tokens that the loss counts."""
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


def test_the_loss_counts_replies_with_their_end_tokens(tokenizer):
    end = tokenizer.eos_token
    encoded = encode_conversation(tokenizer, ASKED, [tokenizer.eos_token_id], "assistant")
    assert counted(tokenizer, encoded).replace(" ", "") == f"Ryebread.{end}220degrees.{end}"
    every = encode_conversation(tokenizer, ASKED, [tokenizer.eos_token_id], "all")
    assert every.ids == encoded.ids == every.labels


def test_a_template_without_end_tokens_gets_one_at_the_end(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = PLAIN
    encoded = encode_conversation(plain, ASKED, [plain.eos_token_id], "assistant")
    assert encoded.ids[-1] == encoded.labels[-1] == plain.eos_token_id
    assert encoded.ids.count(plain.eos_token_id) == 1
    assert counted(plain, encoded) == f" Rye bread.\n 220 degrees.\n{plain.eos_token}"


def test_a_template_that_changes_earlier_turns_is_refused(tokenizer):
    forgetful = copy.deepcopy(tokenizer)
    forgetful.chat_template = (
        "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}{% endif %}"
        "<|end|>{% endfor %}"
    )
    with pytest.raises(UserError, match=r"cannot be told from the rest: set sft\.loss_on to all"):
        encode_conversation(forgetful, ASKED, [forgetful.eos_token_id], "assistant")
    encode_conversation(forgetful, ASKED, [forgetful.eos_token_id], "all")


def test_long_conversations_lose_their_end_or_are_left_out():
    encoded = Encoded([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4])
    assert shortened(encoded, 3) == Encoded([1, 2, 3], [IGNORED, IGNORED, 3])
    assert shortened(encoded, 2) is None and shortened(encoded, 9) == encoded


def test_the_loss_of_rows_is_that_of_each_alone(llama_folder):
    model = load_model(llama_folder, Load())
    rows = [Encoded([5, 6, 7, 8, 9], [IGNORED, IGNORED, 7, 8, 9]), Encoded([5, 9, 4], [5, 9, 4])]
    bar = type("Bar", (), {"update": lambda self, tokens: None})()
    together = losses_of(model, rows, 0, 2, bar)
    for row, loss in zip(rows, together, strict=True):
        logits = model(torch.tensor([row.ids])).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(
            logits, torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum"
        )
        assert loss == pytest.approx(expected.item(), abs=1e-4)
    figures = compared(together, together - 1, rows)
    assert figures["tokens"] == 5 and figures["change"] == pytest.approx(-2 / 5)


def test_rows_of_a_pass_divide_those_of_a_step():
    assert [largest_divisor(16, n) for n in (1, 5, 16, 40)] == [1, 4, 16, 16]


def write_instructions(folder):
    """An artifact of stage instructions: 24 conversations to train on, and 6 others."""

    def conversations(first, last):
        for n in range(first, last):
            said = f"Rye bread {n % 5}." * (1 + n % 3)
            yield {
                "messages": [
                    {"role": "user", "content": f"Topic {n}?"},
                    {"role": "assistant", "content": said},
                ]
            }

    write_records(folder / "train.jsonl", conversations(0, 24))
    write_records(folder / "held_out.jsonl", conversations(24, 30))
    return folder


TUNING = Tuning(
    method="full", learning_rate=3e-3, epochs=4, batch_size=4, max_length=64, lora=LoRA(rank=4)
)


def tune(folder, instructions, out, settings=TUNING, batch_size=2, load=None):
    (out / "out").mkdir(parents=True, exist_ok=True)
    return tune_model(
        model_folder=folder,
        load=load or Load(),
        instructions=instructions,
        settings=settings,
        seed=3,
        batch_size=batch_size,
        label="tuning",
        checkpoints=out / "checkpoints",
        out=out / "out",
    )


def weights(out):
    return load_file(out / "out/model/model.safetensors")


@pytest.mark.parametrize(
    "changes", [{}, {"method": "lora", "learning_rate": 3e-2}, {"packing": True}, {"loss_on": "all"}]
)
def test_a_tuned_model_has_learned_and_is_a_model_like_any_other(
    changes, llama_folder, instructions, tmp_path
):
    found = tune(llama_folder, instructions, tmp_path, TUNING.model_copy(update=changes))
    held_out = found["held_out"]
    assert held_out["after"] < held_out["before"] - 0.3
    assert held_out["change_interval"][1] < 0
    assert found == read_json(tmp_path / "out" / LOSSES)
    assert found["log"][-1]["loss"] < found["log"][0]["loss"]
    base = load_file(llama_folder / "model.safetensors")
    tuned = weights(tmp_path)
    assert {n: (t.shape, t.dtype) for n, t in tuned.items()} == {
        n: (t.shape, t.dtype) for n, t in base.items()
    }
    folder = tmp_path / "out/model"
    assert (
        load_tokenizer(folder, Load()).chat_template
        == load_tokenizer(llama_folder, Load()).chat_template
    )
    engine = open_engine(Source("tuned", folder, Load(), 2))
    assert engine.lengths([]) == []
    engine.close()


def test_the_rows_of_a_pass_do_not_change_the_result(llama_folder, instructions, tmp_path):
    settings = TUNING.model_copy(update={"epochs": 1})
    apart, together = tmp_path / "apart", tmp_path / "together"
    for out, batch_size in ((apart, 1), (together, 4)):
        tune(llama_folder, instructions, out, settings, batch_size)
    for name, value in weights(apart).items():
        assert torch.allclose(value, weights(together)[name], atol=1e-4), name


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_job_ends_with_the_same_bytes(
    method, llama_folder, instructions, tmp_path, monkeypatch
):
    settings = TUNING.model_copy(update={"method": method, "epochs": 2})
    expected = tune(llama_folder, instructions, tmp_path / "whole", settings)
    monkeypatch.setattr(Checkpoints, "due", True)
    steps = iter([True] * 9 + [False])
    own = training.ConversationTrainer.training_step

    def step(*arguments):
        if not next(steps, True):
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(training.ConversationTrainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        tune(llama_folder, instructions, tmp_path / "broken", settings)
    assert Checkpoints(tmp_path / "broken/checkpoints/steps").names()
    assert tune(llama_folder, instructions, tmp_path / "broken", settings) == expected
    files = [tmp_path / name / "out/model/model.safetensors" for name in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_loss_that_is_not_finite_stops_the_job(llama_folder, instructions, tmp_path, monkeypatch):
    def compute_loss(self, model, inputs, **_):
        parameter = next(p for p in model.parameters() if p.requires_grad)
        return parameter.sum() * float("nan")

    monkeypatch.setattr(training.ConversationTrainer, "compute_loss", compute_loss)
    with pytest.raises(UserError, match="step 1 of 24: the loss is NaN or infinite"):
        tune(llama_folder, instructions, tmp_path)


def test_nothing_fits(llama_folder, instructions, tmp_path):
    with pytest.raises(UserError, match=r"sft\.max_length: 3; no conversation of train.jsonl fits"):
        tune(llama_folder, instructions, tmp_path, TUNING.model_copy(update={"max_length": 3}))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "gpt_neox": {**SMALL, "intermediate_size": 48},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "mixtral": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4},
    "qwen2": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2},
    "gemma2": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
    "phi": {**SMALL, "intermediate_size": 48},
}
PACKED = set(FAMILIES) - {"mpt"}  # they tell packed conversations apart by positions


def save_family(architecture, tokenizer, folder):
    """A small random model of one of the families."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), **FAMILIES[architecture], **ids
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_all_families_learn_with_the_default_layers(architecture, tokenizer, instructions, tmp_path):
    save_family(architecture, tokenizer, tmp_path / "base")
    settings = TUNING.model_copy(update={"method": "lora", "learning_rate": 3e-2, "epochs": 1})
    found = tune(tmp_path / "base", instructions, tmp_path, settings)
    assert found["held_out"]["after"] < found["held_out"]["before"]
    packing = settings.model_copy(update={"packing": True})
    if architecture in PACKED:
        tune(tmp_path / "base", instructions, tmp_path / "packed", packing)
    else:
        with pytest.raises(UserError, match=r"sft\.packing: true; this model reads"):
            tune(tmp_path / "base", instructions, tmp_path / "packed", packing)
