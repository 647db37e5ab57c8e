"""Code fingerprints follow what the code does, not what it says about itself."""

import textwrap

import pytest
from expertchat.pipeline import fingerprints
from expertchat.pipeline.fingerprints import code_files, essential_source, folder_sample
from expertchat.pipeline.plan import STAGES


def essential(text: str) -> str:
    return essential_source(textwrap.dedent(text))


def test_comments_docstrings_and_blank_lines_do_not_count():
    bare = essential(
        """
        x = "a # b"
        def f(a):
            return a
        """
    )
    dressed = essential(
        '''
        """Module."""
        x = "a # b"  # kept: the hash within the string

        def f(a):
            """Does é nothing,
            on two lines."""
            # comment
            return a
        '''
    )
    assert dressed == bare
    assert "a # b" in bare


def test_code_counts():
    assert essential("x = 1") != essential("x = 2")
    assert essential("if x:\n    y = 1") != essential("if x: y = 1")  # layout is code


def test_a_stage_covers_what_it_imports_and_nothing_else():
    names = {path.stem for path in code_files(fingerprints.SCRIPTS / "topics.py")}
    assert {"topics", "interface", "local", "chat", "prompts"} <= names
    assert not names & {"ppo", "report", "plan", "jobs", "mmlu", "oracle"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_fingerprint_of_16_digits(stage):
    assert len(fingerprints.code_fingerprint(stage)) == 16


def test_a_folder_sample_sees_names_sizes_and_ends(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0" * 300_000)
    first = folder_sample(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"0" * 299_999 + b"1")
    second = folder_sample(tmp_path)
    (tmp_path / "b.bin").write_bytes(b"")
    assert len({first, second, folder_sample(tmp_path)}) == 3
