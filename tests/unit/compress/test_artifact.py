import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.artifact import (
    Artifact,
    damage,
    file_digest,
    find_folder,
    hash_json,
    new_folder,
    open_artifact,
    recover,
    seal,
    to_json,
)
from compress.errors import StageError
from compress.folder_lock import lock_folder
from compress.kind import Kind

ROOT = Path(__file__).parents[3]


def make(root, name="01_qat", content="weights", **changes):
    folder = new_folder(root, name)
    (folder / "model.txt").write_text(content)
    fields = {
        "path": folder, "stage": "qat", "label": "qat", "kind": Kind.QUANTIZED, "key": "k", "digest": "",
        "facts": {"params": np.int64(3), "shape": (1, 2), "score": float("nan"), "file": Path("a/b")},
        "seconds": 1.5, "peak_memory_bytes": 7, "lineage": ("float", "qat"), "key_parts": {"seed": 0},
    }  # fmt: skip
    return seal(Artifact(**{**fields, **changes}), root=root, name=name)


def test_a_sealed_artifact_reads_back_as_it_was_written(tmp_path):
    sealed = make(tmp_path)
    opened = open_artifact(tmp_path / "01_qat")
    assert opened.digest == sealed.digest
    assert (opened.kind, opened.lineage, opened.key_parts) == (Kind.QUANTIZED, ("float", "qat"), {"seed": 0})
    assert opened.facts["params"] == 3
    assert opened.facts["shape"] == [1, 2]
    assert np.isnan(opened.facts["score"])
    assert opened.facts["file"] == "a/b"
    assert damage(opened.path) is None
    assert opened.file("model.txt").read_text() == "weights"


def test_the_digest_depends_on_names_and_contents_of_files_alone(tmp_path):
    first = make(tmp_path / "a", key="1", seconds=1.0)
    assert make(tmp_path / "b", key="2", seconds=2.0).digest == first.digest
    assert make(tmp_path / "c", content="other").digest != first.digest


def test_sealing_again_replaces_the_old_artifact(tmp_path):
    make(tmp_path)
    make(tmp_path, content="new")
    assert (tmp_path / "01_qat" / "model.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["01_qat"]


@pytest.mark.parametrize("flip_at", [0, 20, -3])
def test_any_flipped_byte_of_a_manifest_is_damage(tmp_path, flip_at):
    make(tmp_path)
    path = tmp_path / "01_qat" / "manifest.json"
    raw = bytearray(path.read_bytes())
    raw[flip_at] ^= 1
    path.write_bytes(raw)
    assert "manifest.json" in damage(tmp_path / "01_qat")
    with pytest.raises(StageError, match=r"manifest\.json"):
        open_artifact(tmp_path / "01_qat")


def test_a_manifest_of_another_format_is_refused_by_its_version(tmp_path):
    make(tmp_path)
    path = tmp_path / "01_qat" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    assert "format version 2, expected 1" in damage(tmp_path / "01_qat")


def test_a_folder_is_found_by_its_label_whatever_its_number(tmp_path):
    make(tmp_path, "07_qat")
    assert find_folder(tmp_path, "qat").name == "07_qat"
    assert find_folder(tmp_path, "at") is None
    assert find_folder(tmp_path / "absent", "qat") is None


def test_recovery_removes_what_is_not_whole_and_keeps_what_is(tmp_path):
    make(tmp_path)
    (tmp_path / ".old").mkdir(exist_ok=True)
    (tmp_path / "01_qat").rename(tmp_path / ".old" / "01_qat")
    new_folder(tmp_path, "02_pack").joinpath("half").write_text("x")
    recover(tmp_path)
    assert damage(tmp_path / "01_qat") is None
    assert not (tmp_path / "02_pack").exists()
    assert not (tmp_path / ".new" / "02_pack").exists()


def test_facts_that_are_no_json_are_refused():
    with pytest.raises(TypeError, match="facts must be JSON, found object"):
        to_json({"x": object()})


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path):
    (tmp_path / "a").write_text("1")
    digest = file_digest(tmp_path)
    assert digest == hash_json({"a": file_digest(tmp_path / "a")})
    (tmp_path / "a").rename(tmp_path / "b")
    assert file_digest(tmp_path) != digest


@pytest.mark.parametrize("file", ["notes.txt", "sub/notes.txt", "model.txt"])
def test_files_of_somebody_in_a_folder_that_is_made_again_are_kept(tmp_path, caplog, file):
    for number, content in enumerate(("first", "second", "third")):
        path = make(tmp_path, content=content).path / file
        if number < 2:
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"mine {number}")
    assert (tmp_path / "01_qat" / "model.txt").read_text() == "third"
    for number in (0, 1):
        assert (tmp_path / f"01_qat.kept-{number + 1}" / file).read_text() == f"mine {number}"
    assert f"01_qat.kept-1: the stage was made again, and {file} is not as it left it there" in caplog.text
    assert find_folder(tmp_path, "qat") == tmp_path / "01_qat"


def test_a_folder_of_somebody_in_the_place_of_a_stage_is_kept_and_litter_of_systems_is_not(tmp_path):
    (tmp_path / "01_qat").mkdir()
    (tmp_path / "01_qat" / "thesis.tex").write_text("mine")
    make(tmp_path)
    assert (tmp_path / "01_qat.kept-1" / "thesis.tex").read_text() == "mine"
    (tmp_path / "01_qat" / ".DS_Store").write_text("x")
    make(tmp_path, content="new")
    assert not (tmp_path / "01_qat.kept-2").exists()


def test_what_was_just_replaced_is_kept_by_a_recovery_too(tmp_path):
    sealed = make(tmp_path)
    (tmp_path / ".old").mkdir()
    shutil.copytree(sealed.path, tmp_path / ".old" / "01_qat")
    (tmp_path / ".old" / "01_qat" / "notes.txt").write_text("mine")
    recover(tmp_path)
    assert (tmp_path / "01_qat.kept-1" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / ".old" / "01_qat").exists()


@pytest.mark.parametrize("content", ["mine", "process of thought\n", "process 12 on earth\nmine\n"])
def test_a_file_of_somebody_that_is_called_like_the_lock_keeps_its_content(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with lock_folder(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == content
    (tmp_path / ".lock").write_text("process 12 on earth\n")
    with lock_folder(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_a_lock_is_held_against_other_processes_and_freed_at_the_end(tmp_path):
    imports = "import sys; from pathlib import Path; from compress import folder_lock"
    code = f"{imports}\nwith folder_lock.lock_folder(Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with lock_folder(tmp_path):
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"in use by process {os.getpid()} on " in refused.stderr
    assert subprocess.run(command, env=environment, check=False).returncode == 0
