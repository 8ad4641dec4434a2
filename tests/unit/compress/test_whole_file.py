"""A file is there whole or not at all, whatever ends the writing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from compress.whole_file import whole_file, write_whole


@pytest.mark.parametrize("synced", [True, False])
def test_a_file_appears_with_all_of_its_content_and_nothing_else_is_left(tmp_path, synced):
    path = tmp_path / "a.txt"
    write_whole(path, "ä", synced=synced)
    write_whole(path, b"two", synced=synced)
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("synced", [True, False])
def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path, synced):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path, synced=synced) as file:  # noqa: PT012
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_behind_a_link_is_replaced_and_not_the_link(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_cannot_be_written_is_named_in_the_error(tmp_path):
    for path in (tmp_path, tmp_path / "gone" / "a.txt", "/dev/null"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 its errno differs, its file name must not
            write_whole(path, b"x")
        assert caught.value.filename == str(path)


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    program = (
        "import os, sys, signal, time\nfrom compress.whole_file import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); print('open', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "open\n"
        write_whole(path, b"mine")
        assert len(list(tmp_path.glob(".a.txt.*.part"))) == 1
        os.kill(writer.pid, signal.SIGKILL)
    write_whole(path, b"again")
    assert path.read_bytes() == b"again"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
