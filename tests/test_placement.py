"""Placement of models on GPUs, with results worked out by hand."""

import pytest
import torch
from accelerate.utils import check_device_map
from conftest import save_random_model
from expertchat.engine.loading import device_map, load_model, make_skeleton, memory_need
from expertchat.engine.memory import block_bytes
from expertchat.engine.placement import GIB, Need, gpu_free_bytes, place, spread
from expertchat.errors import UserError
from expertchat.settings.models import Load


def need(name: str, gib: float, layers: int, working: float) -> Need:
    """A model of equal layers."""
    return Need(
        name, {f"{name}.{i}": int(gib * GIB / layers) for i in range(layers)}, int(working * GIB)
    )


MIXTRAL, LLAMA = need("mixtral", 27, 32, 2), need("llama", 16, 32, 1)
SMALL = need("small", 6, 32, 1)


def gpus(devices: dict[str, int]) -> list[int]:
    """Layers on each GPU, by GPU."""
    return [list(devices.values()).count(gpu) for gpu in sorted(set(devices.values()))]


def test_the_founding_pair_fits_side_by_side_on_four_gpus_of_16_gib():
    placement = place([MIXTRAL, LLAMA], [16 * GIB] * 4)
    assert placement.side_by_side
    mixtral, llama = placement.devices
    # without working memory mixtral has 14 GiB per GPU and llama 15: both need two
    assert set(mixtral.values()) == {0, 1} and set(llama.values()) == {2, 3}
    assert gpus(mixtral) == [16, 16] and gpus(llama) == [16, 16]


def test_a_gpu_left_over_goes_to_the_fullest_model():
    # alone: mixtral on two GPUs at 97 %, the small one on one at 40 %
    placement = place([MIXTRAL, SMALL], [16 * GIB] * 4)
    assert [set(d.values()) for d in placement.devices] == [{0, 1, 2}, {3}]
    # 27 GiB over three GPUs: a third of the layers each
    assert gpus(placement.devices[0]) == [11, 11, 10]


def test_one_large_gpu_takes_both():
    placement = place([MIXTRAL, LLAMA], [80 * GIB])
    assert not placement.side_by_side
    assert [set(d.values()) for d in placement.devices] == [{0}, {0}]


def test_both_share_all_gpus_if_they_do_not_fit_side_by_side():
    # 20 + 20 GiB on 3 GPUs of 16: each alone needs two, together they leave 40 of 42 GiB filled
    pair = [need("a", 20, 40, 1), need("b", 20, 40, 1)]
    placement = place(pair, [16 * GIB] * 3)
    assert not placement.side_by_side
    for gpu in range(3):
        layers = sum(list(d.values()).count(gpu) for d in placement.devices)
        assert layers * 0.5 + 2 <= 16


def test_a_pair_that_does_not_fit_is_refused_with_what_is_missing():
    with pytest.raises(
        UserError, match=r"mixtral and llama need 43\.0 GiB .* 3\.0 GiB .*1 GPUs have 16\.0"
    ):
        place([MIXTRAL, LLAMA], [16 * GIB])
    with pytest.raises(UserError, match=r"each lacks (29\.[89]|30\.[0-4]) GiB"):  # 43 + 3 - 16
        place([MIXTRAL, LLAMA], [16 * GIB])
    with pytest.raises(UserError, match="request a GPU"):
        place([LLAMA], [])


def test_a_layer_is_never_split():
    # two layers of 9 GiB on GPUs of 16: one each, though 18 GiB are less than 32
    assert spread({"a": 9 * GIB, "b": 9 * GIB}, [16 * GIB] * 2)[1] == {"a": 0, "b": 1}
    with pytest.raises(UserError):
        place([Need("m", {"a": 9 * GIB, "b": 9 * GIB, "c": 9 * GIB}, 0)], [16 * GIB] * 2)


def test_no_gpu_is_filled_beyond_what_it_has_free():
    free = [10 * GIB, 24 * GIB, 16 * GIB, 12 * GIB]
    placement = place([MIXTRAL, SMALL], free)
    for gpu, room in enumerate(free):
        for model, devices in zip([MIXTRAL, SMALL], placement.devices, strict=True):
            weights = sum(model.blocks[block] for block, on in devices.items() if on == gpu)
            room -= weights + model.working if weights else 0
        assert room >= 0


def test_more_working_memory_takes_more_gpus():
    free = [16 * GIB] * 4
    few, many = (place([need("m", 12, 24, working)], free[:n]) for working, n in ((3, 1), (6, 2)))
    assert set(few.devices[0].values()) == {0} and set(many.devices[0].values()) == {0, 1}
    with pytest.raises(UserError):
        place([need("m", 12, 24, 6)], free[:1])


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("architecture, tied", [("llama", False), ("llama", True), ("mixtral", False)])
def test_a_placed_model_has_a_device_for_each_of_its_weights(
    architecture, tied, quantization, tokenizer, tmp_path
):
    folder = save_random_model(
        architecture, tokenizer, tmp_path, hidden_size=64, num_hidden_layers=4, tie_word_embeddings=tied
    )
    load = Load(quantization=quantization)
    wanted = memory_need("m", folder, load, rows=2, tokens=10)
    skeleton = make_skeleton(folder, load)
    assert wanted.blocks == block_bytes(skeleton, load)
    room = sum(wanted.blocks.values()) * 2 // 3 + wanted.working
    placement = place([wanted], [room, room])
    assert set(placement.devices[0].values()) == {0, 1}
    found = device_map(skeleton, placement.devices[0])
    check_device_map(skeleton, found)
    if tied:
        assert found["lm_head"] == found["model.embed_tokens"]
    assert device_map(skeleton, dict.fromkeys(wanted.blocks, 1)) == {"": 1}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("gpus_used", [1, 2])
def test_a_model_works_where_it_was_placed(model_folder, quantization, gpus_used):
    if torch.cuda.device_count() < gpus_used:
        pytest.skip(f"needs {gpus_used} GPUs")
    load = Load(quantization=quantization, dtype="float32")
    wanted = memory_need("m", model_folder, load, rows=1, tokens=10)
    room = sum(wanted.blocks.values()) * (1.0 if gpus_used == 1 else 0.7) + wanted.working
    placement = place([wanted], [int(room)] * gpus_used)
    model = load_model(model_folder, load, placement=placement.devices[0])
    assert {p.device.index for p in model.parameters()} == set(range(gpus_used))
    ids = torch.arange(4, 20).unsqueeze(0)
    with torch.no_grad():
        found = model(ids.to(model.device)).logits.cpu()
        expected = load_model(model_folder, load)(ids.cuda()).logits.cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_machine_without_gpus_has_none_free():
    if not torch.cuda.is_available():
        assert gpu_free_bytes() == []
