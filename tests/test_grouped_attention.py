"""Grouped query heads give the results of attention head by head."""

from types import SimpleNamespace

import pytest
import torch
from expertchat.engine.generate.grouped_attention import grouped_attention, use_grouped_attention
from expertchat.engine.loading import load_model
from expertchat.settings.models import Load

ROWS, NEW, SLOTS, DIM = 2, 3, 7, 8


def plain_attention(query, key, value, mask, scaling):
    """Softmax of scaled products, head by head: [rows, new, heads, dim]."""
    share = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        products = query[:, head] @ key[:, head // share].mT * scaling + mask[:, 0]
        heads.append(products.softmax(-1) @ value[:, head // share])
    return torch.stack(heads, 2)


@pytest.mark.parametrize("shared_heads", [1, 2, 6])
def test_equals_attention_head_by_head(shared_heads):
    torch.manual_seed(0)
    query = torch.randn(ROWS, 6, NEW, DIM)
    key, value = torch.randn(2, ROWS, shared_heads, SLOTS, DIM)
    mask = torch.zeros(ROWS, 1, NEW, SLOTS).masked_fill_(torch.rand(ROWS, 1, NEW, SLOTS) < 0.4, -1e30)
    module = SimpleNamespace(num_key_value_groups=6 // shared_heads)
    found, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(found, plain_attention(query, key, value, mask, 0.3), atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_gets_its_own_attention_back(llama_folder, attention):
    model = load_model(llama_folder, Load(attention=attention))
    with pytest.raises(KeyError), use_grouped_attention(model):
        assert (model.config._attn_implementation == attention) == (attention == "eager")
        raise KeyError
    assert model.config._attn_implementation == attention
