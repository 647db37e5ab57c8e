"""A server that the job starts: it is ready before the first request, and never outlives the job."""

import signal
import subprocess
import sys
import time

import httpx2
import pytest
from expertchat.engine.server import guard
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Server
from running_server import KEY, NOWHERE, asking, command, is_there, opened, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]


def test_a_server_is_started_used_and_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVE_DEMO_KEY", KEY)
    settings = Server(command=command("--child"), key_env="SERVE_DEMO_KEY")
    engine = opened(settings, NOWHERE, log=tmp_path / "server.log")
    assert engine.generate(asking(2), Decoding())[1].text == "word 1"
    log = (tmp_path / "server.log").read_text()
    child = int(log.split("child ")[1].split()[0])
    pids = [engine.process.process.pid, engine.process.guard.pid, child]
    assert all(map(is_there, pids))
    engine.close()
    wait_for(lambda: not any(map(is_there, pids)))
    assert "serving with key $SERVE_DEMO_KEY" in log and KEY not in log


JOB = """
import signal, sys
from pathlib import Path
from expertchat.pipeline import jobs
from expertchat.engine.interface import Request
from expertchat.engine.server.engine import ServerEngine
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Server
signal.signal(signal.SIGTERM, jobs._raise_terminated)
engine = ServerEngine(Path("/nonexistent"), Server(command=sys.argv[1]))
print(engine.process.process.pid, engine.process.guard.pid, flush=True)
if sys.argv[2] == "fails":
    raise ValueError("a fault")
if sys.argv[2] != "ends":
    import httpx2
    httpx2.post(engine.client.url[:-2] + "control", json={"fail": ["hang"] * 9}, trust_env=False)
    print("asking", flush=True)
    engine.generate([Request([{"role": "user", "content": "a"}], 0)], Decoding())
"""


@pytest.mark.parametrize("way", ["ends", "fails", signal.SIGTERM, signal.SIGKILL], ids=str)
def test_no_server_outlives_its_job(way):
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, command(), str(way)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(pid) for pid in job.stdout.readline().split()]
    assert len(pids) == 2
    if isinstance(way, signal.Signals):
        assert job.stdout.readline() == b"asking\n"
        time.sleep(0.2)  # until the request has been sent
        job.send_signal(way)
    job.wait(60)
    wait_for(lambda: not any(map(is_there, pids)))
    assert (job.returncode == 0) == (way == "ends")


def test_a_group_that_ignores_sigterm_is_killed():
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "GRACE_SECONDS", 0.1)
        guard.end_group(process.pid, lambda: process.poll() is None)
    assert process.wait(10) == -signal.SIGKILL


def test_a_command_that_ends_at_once_is_reported_with_its_last_lines(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    settings = Server(command=command(f"--die 'no GPU for {KEY}'"), key_env="TEST_KEY")
    with pytest.raises(UserError, match=r"did not start: it ended \(exit code 3\)") as caught:
        opened(settings, NOWHERE)
    assert "no GPU for $TEST_KEY" in str(caught.value)
    with pytest.raises(UserError, match="cannot be run: no-such-program"):
        opened(Server(command="no-such-program --port {port}"), NOWHERE)


def test_a_command_that_serves_nothing_is_ended_after_the_time_limit():
    script = "import time; print('reading weights', flush=True); time.sleep(60)"
    settings = Server(command=f'{sys.executable} -c "{script}" {{port}}', start_minutes=0.05)
    with pytest.raises(UserError, match=r"not ready within 0\.05 minutes.*\n.*reading weights"):
        opened(settings, NOWHERE)


def test_a_started_server_that_dies_during_a_request_ends_the_job(tmp_path):
    engine = opened(Server(command=command()), NOWHERE)
    control = engine.client.url.removesuffix("v1") + "control"
    httpx2.post(control, json={"fail": [None, "die"]}, trust_env=False)
    with pytest.raises(UserError, match=r"stopped: it ended \(signal 9\)"):
        engine.generate(asking(6), Decoding())
    engine.close()
