"""What is read from disk: safetensors only, at the precision asked for, with right gradients."""

import pytest
import torch
from conftest import save_random_model
from expertchat.engine.loading import load_model
from expertchat.errors import UserError
from expertchat.settings.models import Load


def test_no_pickled_weights_are_read(llama_folder, tmp_path):
    import shutil

    shutil.copytree(llama_folder, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, tmp_path / "m" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(tmp_path / "m", Load())


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
