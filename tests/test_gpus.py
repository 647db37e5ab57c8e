"""Jobs of one machine share its GPUs: each takes as many as it may use, and shows PyTorch only these."""

import os
import subprocess
import sys
import threading
import time

import pytest
from expertchat.errors import UserError
from expertchat.pipeline import gpus
from expertchat.pipeline.gpus import gpus_of_machine, local_limits, own_gpus
from expertchat.pipeline.locks import this_process, write_owner


@pytest.fixture(autouse=True)
def four_gpus(tmp_path, monkeypatch):
    """A machine whose driver tells of four GPUs of 16 GiB."""
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '16160\\n16160\\n16160\\n16160\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus_of_machine.cache_clear()
    yield
    gpus_of_machine.cache_clear()


@pytest.fixture
def job(tmp_path, monkeypatch):
    def enter(number):
        monkeypatch.setenv("EXPERTCHAT_GPUS", str(number))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return own_gpus(tmp_path)

    return enter


def visible():
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_the_driver_is_asked_for_memory():
    assert gpus_of_machine() == (16160 * 2**20,) * 4


def test_without_packing_the_gpus_are_one_resource(monkeypatch):
    monkeypatch.delenv("EXPERTCHAT_PACK", raising=False)
    assert local_limits() == ["measurements=1", "machine_gpus=1"]


def test_packed_jobs_share_the_gpus(monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_PACK", "1")
    assert local_limits() == ["measurements=1", "machine_gpus=4"]


def test_without_gpus_packed_jobs_share_memory(monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_PACK", "1")
    monkeypatch.setattr(gpus, "gpus_of_machine", lambda: ())
    _, memory = local_limits()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory == f"mem_mb={total // 10**6}"


def test_two_jobs_at_a_time_have_different_gpus(job):
    with job(1):
        assert visible() == "0"
        with job(3):
            assert visible() == "1,2,3"
    with job(2):
        assert visible() == "0,1"


def test_a_job_waits_until_it_has_all_of_its_gpus_and_holds_none_meanwhile(job, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "POLL", 0.05)
    other = this_process()
    write_owner(tmp_path / "2", other)
    seen = []

    def run():
        with job(4):
            seen.append(visible())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    assert not seen
    (tmp_path / "2").unlink()
    thread.join(10)
    assert seen == ["0,1,2,3"]


def test_the_gpu_of_a_killed_job_is_free(job, tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from expertchat.pipeline.locks import this_process, write_owner\n"
        "write_owner(Path(sys.argv[1]) / '0', this_process()); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert (tmp_path / "0").exists()
    with job(4):
        assert visible() == "0,1,2,3"


def test_a_choice_of_slurm_or_of_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERTCHAT_GPUS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with own_gpus(tmp_path):
        assert visible() == "3"
    assert not list(tmp_path.glob("[0-9]"))


def test_more_gpus_than_there_are(job):
    with pytest.raises(UserError, match="5 GPUs are wanted and this machine has 4"), job(5):
        pass
