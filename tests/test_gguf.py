"""Models from GGUF files: converted exactly, the same bytes every time, and checked before any job."""

import struct

import numpy as np
import pytest
import torch
from expertchat import chat
from expertchat.engine.generate.stopping import end_token_ids
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.errors import UserError
from expertchat.models import gguf_header
from expertchat.models.gguf import Conversion, check_unchanged, convert
from expertchat.models.gguf_header import header_faults, read_header, sample
from expertchat.models.targets import TargetModules
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.records import file_sha256
from expertchat.settings.models import Load
from safetensors.torch import load_file
from tiny_gguf import CHATML, END, HEAD, START, write_tiny

EXACT = Conversion("float32", True, TargetModules())


def converted(path, out, wanted=EXACT):
    """The model's folder, made of the GGUF file at `path`."""
    out.mkdir(parents=True)
    convert(path, path.name, wanted, path.parent, out)
    return out / "model"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(GGUF file, its weights, the folder made of it)."""
    folder = tmp_path_factory.mktemp("tiny")
    weights = write_tiny(folder / "tiny.gguf")
    return folder / "tiny.gguf", weights, converted(folder / "tiny.gguf", folder / "out")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_each_weight_is_what_the_file_holds(kind, tmp_path):
    weights = write_tiny(tmp_path / "tiny.gguf", kind)
    stored = load_file(converted(tmp_path / "tiny.gguf", tmp_path / "out") / "model.safetensors")
    assert stored.keys() == weights.keys()
    for name, weight in weights.items():
        assert np.array_equal(stored[name].numpy(), weight), name


def test_weights_can_be_stored_in_half_precision(tiny, tmp_path):
    file, weights, _ = tiny
    folder = converted(file, tmp_path / "out", Conversion("bfloat16", True, TargetModules()))
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(weight, torch.from_numpy(weights[name]).bfloat16()), name


def test_the_same_file_gives_the_same_bytes(tiny, tmp_path):
    file, _, folder = tiny
    again = converted(file, tmp_path / "out")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert [file_sha256(folder / n) for n in names] == [file_sha256(again / n) for n in names]


def test_the_folder_is_an_ordinary_model(tiny):
    file, _, folder = tiny
    model, tokenizer = load_model(folder, Load()), load_tokenizer(folder, Load())
    assert model.config.max_position_embeddings == 128
    assert model.config.rms_norm_eps == np.float32(1e-5) and model.config.rope_parameters == {
        "rope_type": "default",
        "rope_theta": 10_000.0,
    }
    assert tokenizer.chat_template == CHATML
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (START, END)
    assert not chat.wants_bos(tokenizer)
    text = (folder / "config.json").read_text()
    assert "gguf" not in text and "name_or_path" not in text and "somebody" not in text
    assert not (file.parent / "gguf").exists()


def test_other_files_beside_the_gguf_file_do_not_count(tiny, tmp_path):
    file, _, folder = tiny
    (tmp_path / "tiny.gguf").write_bytes(file.read_bytes())
    for name in ("config.json", "adapter_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text("not for this model", encoding="utf-8")
    again = converted(tmp_path / "tiny.gguf", tmp_path / "out")
    assert (again / "config.json").read_bytes() == (folder / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("split", "pieces"),
    [("gpt-2", ["Ġ", "Ġ", "7", "7"]), ("smollm", ["ĠĠ", "7", "7"])],
)
def test_text_is_split_as_the_file_says(split, pieces, tmp_path):
    """GPT-2 joins a number with the space before it; SmolLM keeps each digit apart."""
    write_tiny(tmp_path / "tiny.gguf", **{"tokenizer.ggml.pre": split})
    tokenizer = load_tokenizer(converted(tmp_path / "tiny.gguf", tmp_path / "out"), Load())
    assert tokenizer.tokenize("  77") == pieces


@pytest.mark.parametrize("adds_bos", [None, False])
def test_a_sentencepiece_tokenizer_adds_bos_unless_the_file_says_otherwise(adds_bos, tmp_path):
    changes = {"tokenizer.ggml.model": "llama", "tokenizer.chat_template": "{{ bos_token }}"}
    changes |= {} if adds_bos is None else {"tokenizer.ggml.add_bos_token": adds_bos}
    write_tiny(tmp_path / "tiny.gguf", **changes)
    tokenizer = load_tokenizer(converted(tmp_path / "tiny.gguf", tmp_path / "out"), Load())
    assert chat.wants_bos(tokenizer) == (adds_bos is None)
    plain = tokenizer.encode("a bé", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(plain) == ["▁a", "▁", "b", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(plain) == "a bé"


def test_a_turn_ends_at_every_token_that_the_file_or_its_template_names(tiny, tmp_path):
    _, _, folder = tiny
    assert end_token_ids(load_model(folder, Load()), load_tokenizer(folder, Load())) == [END]
    # an end of text that differs from the end of a turn, as in Gemma's and Phi 3's files
    write_tiny(tmp_path / "by-template.gguf", **{"tokenizer.ggml.eos_token_id": 0})
    bare = {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": END}
    write_tiny(tmp_path / "by-key.gguf", **bare, **{"tokenizer.chat_template": None})
    for name in ("by-template", "by-key"):
        wanted = Conversion("float32", False, TargetModules())
        folder = converted(tmp_path / f"{name}.gguf", tmp_path / name, wanted)
        assert end_token_ids(load_model(folder, Load()), load_tokenizer(folder, Load())) == [0, END]


def llama3_factors(factor: float) -> np.ndarray:
    """The factors of Llama 3's rotary frequencies, as llama.cpp writes them."""
    frequencies = 10_000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    lengths, low, high = 2 * np.pi / frequencies, 8192 / 1.0, 8192 / 4.0
    smooth = (8192 / lengths - 1.0) / (4.0 - 1.0)
    middle = 1 / ((1 - smooth) / factor + smooth)
    return np.where(lengths < high, 1.0, np.where(lengths > low, factor, middle)).astype(np.float32)


def test_llama_3s_rotary_embeddings_are_kept(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", extra={"rope_freqs.weight": llama3_factors(8.0)})
    model = load_model(converted(tmp_path / "tiny.gguf", tmp_path / "out"), Load())
    plain = 10_000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
    found = model.model.rotary_emb.inv_freq.numpy()
    assert np.allclose(found, plain / llama3_factors(8.0), rtol=1e-4)
    other = np.linspace(1, 8, HEAD // 2, dtype=np.float32)
    write_tiny(tmp_path / "other.gguf", extra={"rope_freqs.weight": other})
    with pytest.raises(UserError, match=r"rotary embeddings \(rope_freqs.weight\) is not Llama 3's"):
        converted(tmp_path / "other.gguf", tmp_path / "other")


FAULTS = [
    ({"architecture": "bert"}, "architecture 'bert' cannot be converted; known: bloom, .*llama"),
    ({"tokenizer.ggml.tokens": None, "tokenizer.ggml.model": None}, "contains no tokenizer"),
    ({"tokenizer.ggml.model": "rwkv"}, "tokenizers of kind 'rwkv'.*known: gemma4, gpt2, llama"),
    ({"tokenizer.ggml.pre": "viking"}, "tokenizer.ggml.pre: 'viking'.*use the original model"),
    ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre: None"),
    ({"tokenizer.ggml.eos_token_id": None}, "names no end token"),
    ({"tokenizer.chat_template": None}, "no chat template: set chat_template in the model's load"),
    ({"llama.rope.scaling.type": "yarn"}, "rotary embeddings are scaled .'yarn'."),
    ({"split.count": 3}, "one of 3 parts: merge them"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=[next(iter(f[0])) for f in FAULTS])
def test_what_cannot_be_converted_is_said_when_planning_and_by_the_job(
    changes, message, default_config, root, tmp_path
):
    path = tmp_path / "tiny.gguf"
    write_tiny(path, **changes)
    with pytest.raises(UserError, match=message):
        converted(path, tmp_path / "out")
    default_config["models"]["llama"] = {"source": "gguf", "path": str(path)}
    with pytest.raises(UserError, match=rf"models\.llama\.path: .*tiny\.gguf; .*{message}"):
        read_experiment(default_config, root)


def test_a_template_in_the_settings_replaces_a_missing_one(default_config, root, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny(path, **{"tokenizer.chat_template": None})
    model = {"source": "gguf", "path": str(path), "load": {"chat_template": "plain"}}
    default_config["models"]["llama"] = model
    plan = make_plan(read_experiment(default_config, root), root)
    assert plan.recipes[plan.views["models/llama"]].runtime["needs_template"] is False


def test_a_file_that_is_no_complete_gguf_file_is_named_when_planning(
    tiny, default_config, root, tmp_path
):
    whole = tiny[0].read_bytes()
    cases = {
        "other.gguf": (b"PK\3\4 a wheel, for example", "not a GGUF file"),
        "old.gguf": (whole[:4] + struct.pack("<I", 1) + whole[8:], "version 1 .* not supported"),
        "header.gguf": (whole[:2000], "ends within its header"),
        "cut.gguf": (whole[:-5000], "cut off: [0-9,]+ bytes of at least [0-9,]+"),
        "odd.gguf": (whole.replace(b"token_id\4\0\0\0", b"token_id\x63\0\0\0"), "header cannot be read"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        default_config["models"]["llama"] = {"source": "gguf", "path": str(tmp_path / name)}
        with pytest.raises(UserError, match=rf"models\.llama\.path: .*{name}.*{message}"):
            read_experiment(default_config, root)
    default_config["models"]["llama"] = {"source": "gguf", "path": str(tmp_path / "no.gguf")}
    with pytest.raises(UserError, match=r"no\.gguf; there is no file /.*no\.gguf"):
        read_experiment(default_config, root)


def test_tensors_of_a_type_that_cannot_be_dequantized_are_named(tmp_path):
    write_tiny(tmp_path / "tiny.gguf", extra={"table.weight": np.zeros(4, dtype=np.int32)})
    faults = list(header_faults(read_header(tmp_path / "tiny.gguf"), True))
    assert len(faults) == 1 and faults[0].startswith("tensor table.weight has type 26, which is not")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.rope.dimension_count": 32}, r"k_proj.weight is \[32, 64\] in the file and \[64, 64\]"),
        ({"without": ["blk.1.ffn_up.weight"]}, "no weights for model.layers.1.mlp.up_proj.weight"),
        (
            {"extra": {"blk.0.ffn_gate_exps.weight": np.zeros((2, 96, 64), dtype=np.float32)}},
            "it has [0-9,]+ weights, and a llama in transformers takes [0-9,]+ of them",
        ),
    ],
)
def test_no_weight_is_left_out_and_none_is_made_up(changes, message, tmp_path):
    write_tiny(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(UserError, match=message):
        converted(tmp_path / "tiny.gguf", tmp_path / "out")


def test_target_modules_are_checked_before_weights_are_read(tiny, tmp_path):
    targets = TargetModules({"ppo.lora.target_modules": ["query"]})
    with pytest.raises(UserError, match=r"tiny\.gguf has no linear layer named 'query'"):
        converted(tiny[0], tmp_path / "out", Conversion("float32", True, targets))


def test_the_id_follows_from_the_bytes_of_the_file(tiny, default_config, root, tmp_path):
    def reference(name, **changes):
        default_config["models"]["llama"] = {"source": "gguf", "path": str(tmp_path / name)} | changes
        return make_plan(read_experiment(default_config, root), root).views["models/llama"]

    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(tiny[0].read_bytes())
    first = reference("a.gguf")
    assert reference("b.gguf") == first != reference("a.gguf", dtype="float16")
    changed = bytearray(tiny[0].read_bytes())
    tensor = next(t for t in read_header(tiny[0]).tensors if t.name == "blk.1.attn_v.weight")
    changed[tensor.offset] ^= 1
    (tmp_path / "b.gguf").write_bytes(changed)
    assert reference("b.gguf") != first
    check_unchanged(tmp_path / "a.gguf", sample(read_header(tmp_path / "a.gguf")))
    with pytest.raises(UserError, match=r"b\.gguf changed after this job was planned"):
        check_unchanged(tmp_path / "b.gguf", sample(read_header(tmp_path / "a.gguf")))


def test_two_models_of_one_file_share_an_artifact_and_can_talk(tiny, default_config, root):
    base = {"source": "gguf", "path": str(tiny[0])}
    settings = default_config | {"world": None, "models": {"ada": base, "ben": dict(base)}}
    settings |= {"pairs": [["ada", "ben"]], "mmlu": None, "prompts": "config/prompts"}
    settings["topics"] = {"subjects": ["baking", "law"], "held_out_subjects": 1}
    plan = make_plan(read_experiment(settings, root), root)
    assert plan.views["models/ada"] == plan.views["models/ben"]
    assert plan.views["round-1/policies/ada"] != plan.views["round-1/policies/ben"]
    (dialogues,) = [r for r in plan.recipes.values() if r.label == "dialogues in round 1"]
    assert dialogues.inputs["models"] == [plan.views["models/ada"]] * 2


def test_a_file_is_kept_only_for_a_server_that_reads_it(tiny, default_config, root):
    def planned(command, **model):
        load = {"server": {"command": command}} if command else {}
        default_config["models"]["llama"] = model | {"load": load}
        plan = make_plan(read_experiment(default_config | {"rounds": 0}, root), root)
        return plan.recipes[plan.views["models/llama"]]

    file = {"source": "gguf", "path": str(tiny[0])}
    served = planned("serve {gguf} {port}", **file)
    assert served.settings["keep_file"] is True
    assert planned(None, **file).reference == planned("serve {folder} {port}", **file).reference
    with pytest.raises(UserError, match=r"{gguf} is the file .* this one has source hub"):
        planned("serve {gguf} {port}", source="hub", repository="a/b", revision="c")


def test_known_names_are_those_of_the_pinned_libraries():
    import gguf
    from gguf.quants import _type_traits
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, gguf_tokenizer_mapping
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    builders = {name.replace("_", "-") for name in GGUF_SUPPORTED_ARCHITECTURES}
    spelled = {"qwen2-moe", "qwen3-moe"}  # qwen2moe and qwen3moe in files
    no_chat = {"general", "tokenizer", "t5", "umt5", "mistral"}
    known = (builders | set(GGUF_CONFIG_ARCHS)) - spelled - no_chat | {"qwen2moe", "qwen3moe"}
    assert known == gguf_header.ARCHITECTURES
    assert set(gguf_tokenizer_mapping.GGUF_TOKENIZER_TYPES) - {"t5"} == gguf_header.TOKENIZERS
    assert set(gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS) == gguf_header.KNOWN_SPLITS
    plain = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    expected = {int(t): (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in plain | set(_type_traits)}
    assert expected == gguf_header.TENSOR_TYPES
