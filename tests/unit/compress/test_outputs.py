"""No command writes over a file that is somebody's; repeating a command works."""

import hashlib
import json
import os

import pytest

from compress.cli.main import main
from compress.errors import DataError, RecipeError
from compress.outputs import MANIFEST, Outputs


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_of_ones_own_is_replaced_as_long_as_nobody_changed_it(tmp_path):
    path = tmp_path / "a.txt"
    for content in (b"one", b"two"):
        Outputs("detect").write(path, content)
        assert path.read_bytes() == content
    path.write_bytes(b"mine now")
    with pytest.raises(
        DataError, match=r"a\.txt: there already, and not as an earlier `krimp detect` left it.*--force"
    ):
        Outputs("detect", error=DataError).write(path, b"three")
    assert path.read_bytes() == b"mine now"
    Outputs("detect", force=True).write(path, b"three")
    Outputs("detect").write(path, b"four")
    assert path.read_bytes() == b"four"


def test_places_that_take_no_file_are_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("folder", "is a folder"), ("pipe", "is a device or pipe"), ("x" * 300, "File name too long")):
        for force in (False, True):
            with pytest.raises(DataError, match=rf"{name}: .*{words}.* Choose another place"):
                Outputs("detect", force=force, error=DataError).claim([tmp_path / "fine", tmp_path / name])
    monkeypatch.setattr("compress.whole_file.os.access", lambda *_: False)
    with pytest.raises(DataError, match="fine: its folder may not be written"):
        Outputs("detect", error=DataError).claim([tmp_path / "fine"])


def test_a_command_knows_what_it_left(tmp_path):
    Outputs("shrink").write(tmp_path / "a", b"one")
    (tmp_path / "b").write_bytes(b"one")
    left = [Outputs("shrink").left(tmp_path / name) for name in ("a", "b", "none")]
    assert left == [True, False, False]
    assert not Outputs("pack").left(tmp_path / "a")


def test_what_another_command_left_is_not_replaced(tmp_path):
    Outputs("pack").write(tmp_path / "a", b"one")
    with pytest.raises(RecipeError):
        Outputs("schema", error=RecipeError).write(tmp_path / "a", b"two")
    Outputs("schema").write(tmp_path / "a", b"one")  # the same bytes: nothing is lost


def test_a_file_is_listed_before_it_is_there_so_that_a_killed_command_can_be_repeated(tmp_path, monkeypatch):
    import compress.whole_file

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress.whole_file.Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        Outputs("import").write(tmp_path / "a", b"one")
    monkeypatch.undo()
    assert json.loads((tmp_path / MANIFEST).read_text())["sha256"] == sha256(b"one")
    (tmp_path / "a").write_bytes(b"one")  # as if the kill had come a moment later
    Outputs("import").write(tmp_path / "a", b"two")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b"[1]\n{}\n", b"[" * 100_000, b'{"file": [], "command": "x", "sha256": 1}\n']
)
def test_a_manifest_that_makes_no_sense_lists_nothing(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    (tmp_path / "a").write_bytes(b"mine")
    assert not Outputs("x").may_replace(tmp_path / "a")
    Outputs("x").write(tmp_path / "b", b"new")


def test_a_manifest_that_is_a_link_of_a_strangers_is_neither_read_nor_written(tmp_path):
    (tmp_path / "away").mkdir()
    target = tmp_path / "away" / "profile"
    target.write_text(json.dumps({"file": "a", "command": "x", "sha256": sha256(b"mine")}) + "\n")
    before = target.read_bytes()
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / MANIFEST).symlink_to(target)
    (folder / "a").write_bytes(b"mine")
    assert not Outputs("x").may_replace(folder / "a")
    Outputs("x").write(folder / "b", b"new")
    assert target.read_bytes() == before
    target.unlink()
    Outputs("x").write(folder / "c", b"new")
    assert not target.exists()


def test_many_files_are_told_in_one_line(tmp_path):
    paths = [tmp_path / f"{number}\n" for number in range(5)]
    for path in paths:
        path.write_text("mine")
    with pytest.raises(DataError, match="and 2 more: there already") as caught:
        Outputs("detect", error=DataError).claim(paths)
    assert "\n" not in str(caught.value)


def test_the_schema_is_written_again_but_never_over_another_file(tmp_path, capsys):
    out = tmp_path / "schema.json"
    command = ["schema", "--plugin", "dcfl", "-o", str(out)]
    assert [main(command), main(command)] == [0, 0]
    out.write_text("{}")
    assert main(command) == 2
    assert out.read_text() == "{}"
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert json.loads(out.read_text())["properties"]


def test_copied_and_upgraded_recipes_keep_the_rule(tmp_path):
    out = tmp_path / "mine.yaml"
    command = ["recipes", "copy", "demo", "-o", str(out)]
    assert [main(command), main(command)] == [0, 0]
    out.write_text("changed: true\n")
    assert main(command) == 2
    assert out.read_text() == "changed: true\n"


def test_imported_weights_keep_the_rule(tmp_path):
    import torch
    from safetensors.torch import save_file

    from detectors.dcfl.adapter import DETECTOR

    assert hasattr(DETECTOR, "import_checkpoint")
    save_file({"backbone.conv1.weight": torch.zeros(3)}, tmp_path / "in.safetensors")
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    given, out = str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")
    assert main(["import", "--detector", "dcfl", given, "-o", out]) == 3
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine"
