"""Code fingerprints depend on code and not on comments or docstrings."""

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
        x = "a # b"  # the hash in the string is no comment

        def f(a):
            """Does é nothing,
            on two lines."""
            # comment
            return a
        '''
    )
    assert dressed == bare
    assert "a # b" in bare


def test_the_content_of_string_literals_counts():
    texts = ["a\nb", "a\n\nb", "a  \nb", "a # c\nb", "a"]
    assert len({essential(f'x = """{text}"""\n') for text in texts}) == len(texts)
    quotes = """x = 'a " # b'  # c\ny = "it's"  # d"""
    assert essential(quotes) == """x = 'a " # b'\ny = "it's\""""


def test_docstrings_are_found_in_every_block():
    source = "try:\n    f()\nexcept E:\n    'why'\n    g()\nfinally:\n    'end'\n    h()\n"
    assert essential(source) == essential(source.replace("    'why'\n", "").replace("    'end'\n", ""))


def test_code_counts():
    assert essential("x = 1") != essential("x = 2")
    assert essential("if x:\n    y = 1") != essential("if x: y = 1")  # layout is code


def test_a_stage_covers_the_modules_that_it_imports_and_no_others():
    names = {path.stem for path in code_files(fingerprints.SCRIPTS / "topics.py")}
    assert {"topics", "interface", "local", "chat", "prompts"} <= names
    assert not names & {"ppo", "report", "plan", "jobs", "mmlu", "oracle"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_fingerprint_of_16_digits(stage):
    assert len(fingerprints.code_fingerprint(stage)) == 16


def test_a_folder_sample_depends_on_names_sizes_and_content(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0" * 300_000)
    first = folder_sample(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"0" * 299_999 + b"1")
    second = folder_sample(tmp_path)
    (tmp_path / "b.bin").write_bytes(b"")
    assert len({first, second, folder_sample(tmp_path)}) == 3
