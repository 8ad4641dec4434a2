"""The generator: same seed, same bytes; labels that validate and lie on what is drawn; whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.errors import DataError
from detectors.data import synthetic
from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.data.synthetic import RECORD, write_dataset
from detectors.data.synthetic_scenes import CLASSES, SceneSettings, make_scene

REPOSITORY = Path(__file__).resolve().parents[4]
SMALL = SceneSettings(seed=1, size=(96, 112), object_px=(6, 30), counts={"train": 4, "val": 2})


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    first, _ = write_dataset(tmp_path / "a", SMALL)
    second, _ = write_dataset(tmp_path / "b", SMALL)
    assert first == second
    other, _ = write_dataset(tmp_path / "c", SceneSettings(**{**vars(SMALL), "seed": 2}))
    assert other != first


def test_every_file_passes_our_own_check(tmp_path):
    write_dataset(tmp_path / "a", SMALL)
    data = DotaData(root=str(tmp_path / "a"), image_size=SMALL.size, ignore=("dontcare",))
    assert DotaDataset(data, CLASSES).counts("train", check="full")["images"] == 4


def test_scenes_hold_all_classes_sizes_orientations_difficult_and_ignored_objects_and_empty_images():
    settings = SceneSettings(size=(192, 192))
    scenes = [make_scene(settings, (0, index))[1] for index in range(40)]
    objects = [item for scene in scenes for item in scene]
    assert {item.kind for item in objects} == {*CLASSES, "dontcare"}
    assert any(not scene for scene in scenes)
    assert 0.005 < np.mean([item.difficult for item in objects]) < 0.2
    lengths = [item.pose.length for item in objects if item.kind != "dontcare"]
    assert min(lengths) >= 6
    assert max(lengths) <= 40
    assert min(lengths) < 12
    assert max(lengths) > 30
    directions = np.histogram([item.pose.angle_rad % np.pi for item in objects], bins=8, range=(0, np.pi))[0]
    assert (directions > 0).all()
    assert max(map(len, scenes)) > 30  # dense rows


def test_objects_do_not_overlap_and_have_their_centre_inside():
    _, objects = make_scene(SceneSettings(size=(192, 192)), (0, 4))
    centres = np.array([[item.pose.x, item.pose.y] for item in objects])
    assert ((centres >= 0) & (centres < 192)).all()
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(len(centres), 1)]
    assert len(apart) == 0 or apart.min() > 2


def test_a_complete_folder_is_kept_and_a_damaged_one_is_made_again(tmp_path):
    digest, written = write_dataset(tmp_path / "a", SMALL)
    assert written
    assert write_dataset(tmp_path / "a", SMALL) == (digest, False)
    label = tmp_path / "a" / "val" / "labelTxt" / "val_00001.txt"
    label.write_text("damaged")
    assert write_dataset(tmp_path / "a", SMALL) == (digest, True)
    assert "damaged" not in label.read_text()


def test_a_folder_with_other_peoples_files_is_never_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="expected a new folder"):
        write_dataset(tmp_path / "mine", SMALL)
    write_dataset(tmp_path / "a", SMALL)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt was not made by this generator"):
        write_dataset(tmp_path / "a", SceneSettings(**{**vars(SMALL), "seed": 5}))
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert (tmp_path / "a" / "notes.txt").exists()


def test_nothing_is_visible_when_writing_fails(tmp_path, monkeypatch):
    def break_off(settings, stream):
        if stream[1] == 2:
            raise RuntimeError("power cut")
        return make_scene(settings, stream)

    monkeypatch.setattr(synthetic, "make_scene", break_off)
    with pytest.raises(RuntimeError, match="power cut"):
        write_dataset(tmp_path / "a", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": (20, 20)}, "at least 64"),
        ({"object_px": (40, 6)}, "shortest <= longest"),
        ({"counts": {"train": 0}}, "at least one"),
    ],
)
def test_impossible_settings_are_refused(fields, expected):
    with pytest.raises(DataError, match=expected):
        SceneSettings(**fields)


def test_the_script_teaches_and_writes(tmp_path):
    command = [sys.executable, str(REPOSITORY / "scripts" / "make_synthetic.py")]
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "ship, vehicle, plane" in text
    assert "--seed" in text
    assert "krimp data synthetic --out" in text
    options = [
        "--out",
        str(tmp_path / "a"),
        "--size",
        "64",
        "--object-px",
        "6",
        "20",
        "--train",
        "1",
        "--val",
        "1",
        "--test",
        "1",
    ]
    assert "written" in subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    assert json.loads((tmp_path / "a" / RECORD).read_text())["settings"]["counts"] == {"train": 1, "val": 1, "test": 1}
    wrong = subprocess.run(
        [*command, "--out", str(tmp_path / "b"), "--size", "8"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 3
    assert "expected at least 64 x 64" in wrong.stderr


def test_data_modules_for_the_recipe_import_without_torch():
    code = "import sys, detectors.data.formats.dota, detectors.data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize("size", [100, 128])
def test_scenes_smaller_than_a_harbour_are_drawn(size):
    settings = SceneSettings(size=(size, size))
    for number in range(12):
        image, _objects = make_scene(settings, (number,))
        assert image.shape == (size, size, 3)
