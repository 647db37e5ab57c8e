"""Jobs that are killed, full disks, and files that change: a small part of `make test-faults`."""

import os
import subprocess
import sys

import pytest
from faults import corruptions, points

pytestmark = pytest.mark.slow


def test_corruptions_of_a_finished_store_are_found(finished):
    assert corruptions.try_all(finished, corruptions.ALL_CORRUPTIONS // 10) == []


def test_a_job_that_failed_somewhere_ends_with_the_same_bytes(finished):
    tried, faults = points.try_all(finished, 6, ["dialogues", "replies", "rewards"], workers=1)
    assert len(tried) == 6 and faults == {}


def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bytes(root):
    """In a process of its own, as trainings are forked before they begin."""
    command = [sys.executable, str(root / "tests/faults/training_kills.py"), "--kills", "15"]
    path = os.pathsep.join(str(root / name) for name in ("tests", "benchmarks", "workflow"))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("5 kills: the same bytes") == 3
