"""Linear layers by oneDNN: the same results and gradients as PyTorch's, up to rounding."""

import copy

import pytest
import torch
from expertchat.engine import linear
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.fixture(autouse=True)
def on_any_cpu(monkeypatch):
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(linear, "SMALL", 1)


def pair(features: int, outputs: int, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    """A layer, and its copy by oneDNN."""
    torch.manual_seed(0)
    usual = nn.Linear(features, outputs, bias=bias)
    other = copy.deepcopy(usual)
    linear.use_onednn(other)
    assert type(other) is linear.OneDNNLinear
    return usual, other


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(0,), (1,), (2, 1), (3,), (16,), (2, 40), (2, 3, 150)])
def test_outputs_and_gradients_are_equal_up_to_rounding(shape, bias):
    usual, other = pair(24, 200, bias)
    inputs = torch.randn(*shape, 24)
    with torch.inference_mode():
        torch.testing.assert_close(other(inputs), usual(inputs))
    outputs, gradients = [], []
    for layer in (usual, other):
        own = inputs.clone().requires_grad_()
        outputs.append(layer(own))
        outputs[-1].sin().sum().backward()
        gradients.append([own.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_no_matrix_has_strides_that_onednn_is_slow_with(monkeypatch):
    _, layer = pair(24, 200, bias=False)
    simple, onednn = [], linear.onednn

    def checked(*matrices):
        simple.extend(m.is_contiguous() or m.t().is_contiguous() for m in matrices)
        return onednn(*matrices)

    monkeypatch.setattr(linear, "onednn", checked)
    states = torch.randn(16, 9, 24, requires_grad=True)
    layer(states[:, -1]).sum().backward()  # its gradient is one number, expanded
    assert simple == [True] * 6


def test_frozen_weights_get_no_gradient_and_keep_no_input():
    _, layer = pair(24, 200, bias=False)
    layer.requires_grad_(False)
    inputs = torch.randn(30, 24, requires_grad=True)
    outputs = layer(inputs)
    assert outputs.grad_fn.next_functions  # of the view; the product is before it
    product = outputs.grad_fn.next_functions[0][0]
    assert [saved is None for saved in product.saved_tensors] == [False, True]
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(30, 24))
    assert layer.weight.grad is None


def test_other_types_and_devices_are_left_alone():
    for layer in (
        nn.Linear(4, 4, dtype=torch.bfloat16),
        nn.Linear(4, 4, device="meta"),
        nn.Bilinear(2, 2, 2),
    ):
        kind = type(layer)
        linear.use_onednn(layer)
        assert type(layer) is kind
    _, layer = pair(24, 200, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(8, 24)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(8, 24, dtype=torch.float64)).dtype == torch.float64


def test_models_keep_their_weights_names_and_take_adapters():
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    usual = LlamaForCausalLM(config).eval()
    other = copy.deepcopy(usual)
    linear.use_onednn(other)
    assert list(other.state_dict()) == list(usual.state_dict())
    logits, grads = [], []
    for model in (usual, other):
        torch.manual_seed(1)
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
        logits.append(tuned(torch.arange(20)[None]).logits)
        logits[-1].logsumexp(-1).sum().backward()
        grads.append({n: p.grad for n, p in tuned.named_parameters() if p.requires_grad})
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_only_cpus_whose_avx512_mkl_leaves_unused(monkeypatch):
    monkeypatch.undo()
    own = {"architecture": "x86_64", "cpu_name": "AMD Ryzen 9 9950X", "avx512_f": True}
    for changes, faster in (
        ({}, True),
        ({"avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Platinum 8480+"}, False),
        ({"architecture": "aarch64"}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda cpu=own | changes: cpu)
        assert linear.onednn_is_faster() is faster
