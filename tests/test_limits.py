"""Code that other people's files steer is ended, whatever it does."""

import os
import time

import pytest
from expertchat.limits import apart, within

MIB = 1 << 20


def test_results_and_errors_are_handed_over():
    parent = os.getpid()
    assert apart(10, 100 * MIB, lambda: ["ä" * 10**5, os.getpid() == parent]) == ["ä" * 10**5, False]
    with pytest.raises(RuntimeError, match="KeyError: 'a'"):
        apart(10, 100 * MIB, lambda: {}["a"])


def test_what_holds_pythons_lock_is_ended():
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        apart(0.5, 100 * MIB, lambda: 9 ** (9**9) > 1)
    assert time.monotonic() - started < 5


def test_what_takes_all_memory_is_ended():
    with pytest.raises(MemoryError):
        apart(10, 100 * MIB, lambda: len(bytearray(1000 * MIB)))
    with pytest.raises(MemoryError):
        apart(10, 100 * MIB, lambda: os._exit(1))


def test_a_thread_that_takes_too_long_is_left():
    with pytest.raises(TimeoutError):
        within(0.1, lambda: time.sleep(1))
    assert within(10, lambda: 3) == 3
