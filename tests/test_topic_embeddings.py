"""Near-duplicate topics by the cosine of their embeddings."""

import pytest
import torch
from expertchat.errors import UserError
from expertchat.settings.topics import Topics
from expertchat.topics.embeddings import Encoder
from expertchat.topics.pool import TopicPool


@pytest.fixture(scope="module")
def encoder_folder(tokenizer, tmp_path_factory):
    """A small random encoder, saved as any other is."""
    from transformers import AutoConfig, AutoModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 160}
    AutoModel.from_config(AutoConfig.for_model("bert", **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_embedding_is_the_mean_of_the_last_states(encoder_folder):
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(encoder_folder).eval()
    tokens = AutoTokenizer.from_pretrained(encoder_folder)("rye bread", return_tensors="pt")
    with torch.no_grad():
        states = model(tokens["input_ids"]).last_hidden_state[0]
    mean = states.mean(0) / states.mean(0).norm()
    found = Encoder(encoder_folder).embed("rye bread")
    assert torch.allclose(torch.from_numpy(found), mean, atol=1e-6)
    assert Encoder(encoder_folder).embed("bread " * 500).shape == (16,)  # long texts are cut


def test_the_error_names_a_folder_without_an_encoder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "none"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"topics.embeddings.path: .* is not an encoder: "):
        Encoder(tmp_path)


def test_the_same_meaning_is_rejected_over_the_cosine(encoder_folder, tmp_path):
    encoder = Encoder(encoder_folder)
    cosine = float(encoder.embed("rye bread at noon") @ encoder.embed("bread of rye"))
    for limit, expected in ((cosine - 0.01, "same meaning"), (cosine + 0.01, None)):
        settings = Topics(embeddings={"path": "e", "max_cosine": limit})
        pool = TopicPool.open(settings, None, encoder_folder)
        pool.add("rye bread at noon")
        found = pool.rejection("bread of rye")
        assert (found and found.reason) == expected
