"""Secrets planted in the environment are in no byte that an experiment leaves, whatever servers do."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from expertchat.engine.server.process import free_port
from secret_forms import echoed_forms, needles, places_of
from small_workflow import merged, small_config, snakemake, write_config

pytestmark = pytest.mark.slow

KEY, PASSWORD = 'sk-very/secret+"key\\7f3a', 'hunter2/ "two" ü'
SERVE = Path(__file__).with_name("serve_secrets.py")
SERVER = {"begun_replies": "omit", "retries": 8, "parallel": 4, "top_logprobs": 12}
MODELS = {
    "started": {
        "source": "server",
        "load": {
            "server": SERVER
            | {"command": f"{sys.executable} {SERVE} --port {{port}}", "key_env": "PLANTED_KEY"}
        },
    },
    "distant": {"source": "server", "load": {"server": SERVER | {"url_env": "PLANTED_URL"}}},
}


def config() -> dict:
    """Both models write topics, talk and rate."""
    found = small_config(rounds=0, topics={"tries_per_topic": 40, "min_words": 1, "max_words": 40})
    found = {key: found[key] for key in ("seed", "topics", "dialogues", "ratings", "rounds")}
    changes = {"ratings": {"rubric": "config/rubrics/expert.yaml"}, "prompts": "config/prompts"}
    return merged(found, changes) | {
        "name": "planted",
        "models": MODELS,
        "pairs": [["started", "distant"]],
    }


@pytest.fixture
def environment(monkeypatch):
    """A running server whose address has a password, and the variables that name the secrets."""
    port = free_port()
    address = f"http://anna:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/v1"
    variables = {"PLANTED_KEY": KEY, "PLANTED_URL": address}
    babbling = {**os.environ, **variables, "MISBEHAVIOUR": "babble"}
    with subprocess.Popen(
        [sys.executable, str(SERVE), "--port", str(port)], env=babbling, stdout=subprocess.DEVNULL
    ) as server:
        yield variables
        server.kill()


def test_the_search_finds_each_form(tmp_path):
    for secret in (KEY, PASSWORD):
        for number, form in enumerate(echoed_forms(secret)):
            (tmp_path / "file").write_text(f"a {form} b")
            assert any(needle in f"a {form} b".encode() for needle in needles(secret)), (number, form)
            assert places_of(secret, tmp_path)


def leaks(folder: Path) -> list[str]:
    secrets = (KEY, PASSWORD, quote(PASSWORD, safe=""), f"anna:{PASSWORD}")
    return [place for secret in secrets for place in places_of(secret, folder)]


def test_no_secret_is_in_any_file_of_an_experiment(environment, tmp_path):
    write_config(tmp_path, config())

    def run(target, way, check=False):
        output = snakemake(tmp_path, target, check=check, MISBEHAVIOUR=way, **environment)
        (tmp_path / f"said-{way}.txt").write_text(output, encoding="utf-8")
        assert leaks(tmp_path) == [] and "Traceback" not in output
        return output

    assert "no GPU for $PLANTED_KEY" in run("topics", "die")
    assert "rejects its key (status 401): not" in run("topics", "deny")
    assert "is refused" in run("topics", "refuse")
    (log,) = (tmp_path / "results/work/topics").glob("*/server-started.log")
    assert "serving with $PLANTED_KEY" in log.read_text()
    assert "next try in 6 s" in run("all", "babble", check=True)
    for stage in ("topics", "dialogues", "ratings", "report"):
        assert list((tmp_path / "results" / stage).glob("*/manifest.json"))
    (dialogues,) = (tmp_path / "results/dialogues").glob("*/dialogues.jsonl")
    assert "$PLANTED_KEY" in dialogues.read_text() and "$PLANTED_URL" in dialogues.read_text()
    assert (tmp_path / ".snakemake").is_dir() and (tmp_path / "logs").is_dir()
