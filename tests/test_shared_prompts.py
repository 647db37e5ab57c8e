"""Texts that begin alike are read as one row, and everything is as if each had been read alone."""

import pytest
import torch
from conftest import save_random_model
from expertchat.engine.loading import load_model
from expertchat.engine.shared_prompts import Reader, shared_rows, text_states, why_whole
from expertchat.settings.models import Load

GROUPS = [[[5, 6, 7, 8], [5, 6, 9], [5, 6, 9, 9, 4]], [[11, 12]], [[5, 6, 7], [5, 6, 7, 8, 10, 11]]]


def test_rows_by_hand():
    batch = shared_rows([[[7, 8, 1], [7, 8, 2, 3]], [[9]]], pad=0)
    assert batch.ids.tolist() == [[7, 8, 1, 2, 3], [9, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3], [0, 0, 0, 0, 0]]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.places.tolist() == [[0, 1, 2, 2], [0, 1, 3, 4], [0, 0, 0, 0]]
    assert batch.visible[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert batch.visible[1].any(1).all()  # padding attends to padding: no row of the softmax is empty
    assert not batch.visible[1, 0, 1:].any() and not batch.visible[1, 1:, 0].any()


def test_states_and_gradients_are_those_of_each_text_alone(model_folder):
    model = load_model(model_folder, Load())
    assert why_whole(model) is None
    weights = [p for p in model.parameters() if p.dim() == 2][:6]
    wanted = torch.tensor([[len(text) - 1, 0] for group in GROUPS for text in group])
    found = {}
    for name, reader in (("one row", Reader(0)), ("alone", Reader(0, "test"))):
        model.zero_grad()
        states = text_states(model, GROUPS, reader, wanted)
        (states * torch.arange(1, states.numel() + 1).view_as(states)).sum().backward()
        gradients = [p.grad.clone() for p in weights if p.grad is not None]
        found[name] = (states.detach(), gradients)
    assert torch.allclose(found["one row"][0], found["alone"][0], atol=1e-5)
    assert len(found["alone"][1]) > 2
    for one, alone in zip(found["one row"][1], found["alone"][1], strict=True):
        assert torch.allclose(one, alone, atol=1e-4 * alone.abs().max().item())


def test_shared_tokens_are_counted_once():
    assert Reader(0).tokens(GROUPS[0]) == 2 + 2 + 1 + 3
    assert Reader(0, "a reason").tokens(GROUPS[0]) == 3 * 5
    assert Reader(0).tokens([[1, 2, 3]]) == 3


@pytest.mark.slow
def test_a_model_with_a_window_reads_complete_texts(tokenizer, tmp_path):
    folder = save_random_model("mistral", tokenizer, tmp_path / "m", sliding_window=4)
    assert "complete text" in why_whole(load_model(folder, Load()))
