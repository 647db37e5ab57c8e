"""A checkpoint is whole or not there, and a damaged one gives way to the one before it."""

import json
import shutil

import pytest
from expertchat.checkpoints import CHECKSUMS, Checkpoints, numbered


def write(saved, number, text="state"):
    with saved.writing(numbered(number)) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/a.txt").write_text(f"{text} {number}")
        (folder / "b.bin").write_bytes(bytes(1000))


def test_the_last_ones_stay_and_the_newest_is_found(tmp_path):
    saved = Checkpoints(tmp_path / "steps")
    assert saved.latest() is None and saved.find(numbered(1)) is None
    for number in (8, 9, 10, 11):
        write(saved, number)
    assert saved.names() == [numbered(10), numbered(11)]
    assert (saved.latest() / "sub/a.txt").read_text() == "state 11"
    write(saved, 11, "other")
    assert (saved.latest() / "sub/a.txt").read_text() == "other 11"
    everything = Checkpoints(tmp_path / "blocks", keep=None)
    for number in range(5):
        write(everything, number)
    assert len(everything.names()) == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_one_leaves_nothing(tmp_path, error):
    saved = Checkpoints(tmp_path)
    write(saved, 1)
    with pytest.raises((KeyboardInterrupt, OSError)), saved.writing(numbered(2)) as folder:
        (folder / "a").write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == [numbered(1)]


def test_what_a_killed_process_left_is_removed(tmp_path):
    saved = Checkpoints(tmp_path)
    write(saved, 1)
    shutil.copytree(tmp_path / numbered(1), tmp_path / f".part-{numbered(2)}")
    saved = Checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [numbered(1)]
    assert saved.latest().name == numbered(1)


def flip(folder):
    data = bytearray((folder / "b.bin").read_bytes())
    data[500] ^= 1
    (folder / "b.bin").write_bytes(data)


def replace_by_file(folder):
    shutil.rmtree(folder)
    folder.write_text("x")


HARM = {
    "flipped": flip,
    "emptied": lambda folder: (folder / "b.bin").write_bytes(b""),
    "cut off": lambda folder: (folder / "sub/a.txt").write_text("st"),
    "missing": lambda folder: (folder / "b.bin").unlink(),
    "extra": lambda folder: (folder / "c.bin").write_text("c"),
    "a folder missing": lambda folder: shutil.rmtree(folder / "sub"),
    "no checksums": lambda folder: (folder / CHECKSUMS).unlink(),
    "no file in the checksums": lambda folder: (folder / CHECKSUMS).write_text("{}"),
    "checksums cut off": lambda folder: (folder / CHECKSUMS).write_text('{"b.bin": [10'),
    "checksums of another kind": lambda folder: (folder / CHECKSUMS).write_text("[1, 2]"),
    "checksums that are no text": lambda folder: (folder / CHECKSUMS).write_bytes(b"\xff\xfe"),
    "a file": replace_by_file,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_one_is_removed_with_a_word_and_the_one_before_it_is_used(tmp_path, capsys, harm):
    saved = Checkpoints(tmp_path)
    write(saved, 1)
    write(saved, 2)
    HARM[harm](tmp_path / numbered(2))
    assert (saved.latest() / "sub/a.txt").read_text() == "state 1"
    assert f"checkpoint {numbered(2)} is not used, as" in capsys.readouterr().err
    assert saved.names() == [numbered(1)]
    write(saved, 2)
    assert saved.latest().name == numbered(2)


def test_checksums_name_every_file(tmp_path):
    saved = Checkpoints(tmp_path)
    write(saved, 1)
    sums = json.loads((tmp_path / numbered(1) / CHECKSUMS).read_text())
    assert set(sums) == {"b.bin", "sub/a.txt"} and sums["b.bin"][0] == 1000
