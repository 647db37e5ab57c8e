"""Jobs that are killed, full disks, and files that change: a small part of `make test-faults`."""

import pytest
from faults import corruptions, points

pytestmark = pytest.mark.slow


def test_corruptions_of_a_finished_store_are_found(finished):
    assert corruptions.try_all(finished, corruptions.ALL_CORRUPTIONS // 10) == []


def test_a_job_that_failed_somewhere_ends_with_the_same_bytes(finished):
    tried, faults = points.try_all(finished, 6, ["dialogues", "replies", "rewards"], workers=1)
    assert len(tried) == 6 and faults == {}
