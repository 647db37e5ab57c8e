"""The sizes of well-known models: their numbers of weights, as published, are those that transformers
makes of them."""

import pytest
import torch
from expertchat.planning.shapes import known_config, known_shapes
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("name", known_shapes())
def test_the_number_of_weights_is_exact(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known_config(name))
    assert model.num_parameters() == known_shapes()[name]["parameters"]


def test_unknown_models_have_no_configuration():
    assert known_config("someone/a-model-of-theirs") is None
