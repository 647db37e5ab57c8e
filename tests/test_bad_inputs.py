"""Bad inputs end in one message that names the file, line or key: a small part of `make test-faults`."""

import pytest
from faults.bad_inputs import ALL_INPUTS, FAMILIES, corpus, try_family
from faults.trial import message_fault, try_case

pytestmark = pytest.mark.slow

FOUND = corpus()
TRIAL_SECONDS = 1.0  # for a prompt, so that those without an end take less of the tests' time
PART = ALL_INPUTS // 10 // len(FAMILIES)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr("expertchat.pipeline.prompt_trials.SECONDS", TRIAL_SECONDS)


@pytest.mark.parametrize("name", FOUND)
def test_what_once_failed_is_refused_with_one_message_or_accepted(name):
    family = FAMILIES[name.split("/")[0]]
    outcome = try_case(FOUND[name], family.use, family.names)
    assert outcome.is_good, (outcome.why, outcome.text)


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_inputs_end_in_one_message(name):
    tried = try_family(name, PART)
    assert sum(one.outcome.kind != "accepted" for one in tried) == PART
    failed = [(one.outcome.kind, one.outcome.why, one.case) for one in tried if not one.outcome.is_good]
    assert failed == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("expertchat: a.csv, line 2: no topic\n", ""),
        ("expertchat: invalid settings:\n  a.csv: no topic\n  a.csv: no subject\n", ""),
        ("", "no message"),
        ("expertchat: no topic\n", "neither file nor key is named"),
        ("expertchat: invalid settings:\n  a.csv: no topic\n  no subject\n", "neither file nor key"),
        ("expertchat: a.csv: \x1b[2J\n", "characters that cannot be seen"),
        ("expertchat: a.csv: no\nsubject\n", "2 lines"),
        (f"expertchat: a.csv: {'x' * 2000}\n", "a line of 2019 characters"),
    ],
)
def test_what_counts_as_one_message(text, why):
    found = message_fault(text, r"a\.csv")
    assert found.startswith(why) and bool(found) == bool(why)


def test_tracebacks_hangs_and_memory_are_seen(monkeypatch):
    monkeypatch.setattr("faults.trial.LONGEST_SECONDS", 1.0)

    def loop(folder):
        while True:
            pass

    def fill(folder):
        bytearray(8 << 30)

    def fail(folder):
        {}["a"]

    kinds = [try_case({}, use, "x").kind for use in (loop, fill, fail, lambda folder: None)]
    assert kinds == ["hang", "traceback", "traceback", "accepted"]
