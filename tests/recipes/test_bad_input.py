"""Bad input, met as a user meets it: the whole command line, the real plug-in, drawn images.

Each case must say where, what and what to do, end with its exit code, show no traceback, and lose nothing.
"""

import shutil

import numpy as np
import pytest
from real_run import draw_data, write_recipe

from compress.cli.main import main

TRAIN = "  - {stage: train, epochs: 2, batch_size: 2, optimizer: adamw, lr: 0.001, warmup_steps: 2}\n"
SCORE = "  - {stage: evaluate, split: test, sizes: false}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_data(tmp_path_factory.mktemp("drawn") / "data", {"train": 4, "val": 2, "test": 2})


@pytest.fixture
def copy(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def krimp(tmp_path, capfd):
    """Return a function that runs `krimp run` and gives exit code and what it wrote to stderr."""

    def run(recipe, *arguments):
        code = main(["run", str(recipe), "--out", str(tmp_path / "out"), *arguments])
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return code, error

    return run


def recipe_of(tmp_path, data, stages=TRAIN, detector=""):
    return write_recipe(tmp_path / "bad.yaml", data, stages, detector)


def first_label(data):
    return next(path for path in sorted((data / "train" / "labelTxt").glob("*.txt")) if path.read_text().strip())


def artifacts_of(tmp_path):
    return sorted(path.name for path in (tmp_path / "out" / "small").glob("[0-9]*"))


def append(line):
    def harm(data):
        label = first_label(data)
        label.write_text(label.read_text().rstrip("\n") + f"\n{line}\n")
        return [f"{label}:{len(label.read_text().splitlines())}: "]

    return harm


def remove_label(data):
    first_label(data).unlink()
    return [f"{first_label(data).parent}"]


def empty_folder(data):
    for part in ("images", "labelTxt"):
        shutil.rmtree(data / "train" / part)
        (data / "train" / part).mkdir()
    return [f"{data / 'train' / 'images'}: no image"]


def missing_folder(data):
    shutil.rmtree(data / "train")
    return [f"{data / 'train'}: no such folder", "--set data.root=PATH"]


def cut_image(data):
    image = sorted((data / "train" / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:-40])
    return [f"{image}: "]


def no_image(data):
    image = sorted((data / "train" / "images").iterdir())[0]
    image.write_bytes(b"not an image at all")
    return [f"{image}: OpenCV cannot decode the 19 bytes"]


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (missing_folder, "expected ROOT/train/{images,labelTxt}"),
        (empty_folder, "expected .png"),
        (remove_label, "missing, expected the labels of"),
        (append("1 1 9 1 9 9 1 9 ship"), "9 columns, expected 10"),
        (append("1 1 9 1 9 9 1 9 shap 0"), "unknown class 'shap', expected one of ship"),
        (append("1 1 9 1 9 9 1 nan ship 0"), "y4 is nan, expected a finite number"),
        (cut_image, "expected a complete image"),
        (no_image, "expected a complete image"),
    ],
)
def test_bad_data_is_refused_before_anything_runs(krimp, copy, tmp_path, harm, expected):
    places = harm(copy)
    code, error = krimp(recipe_of(tmp_path, copy))
    assert code == 3
    for text in (expected, *places):
        assert text in error
    assert artifacts_of(tmp_path) == []


def test_no_data_folder_says_how_to_name_one(krimp, tmp_path):
    code, error = krimp(recipe_of(tmp_path, "null"))
    assert code == 3
    assert "data.root: not given" in error
    assert "--set data.root=" in error


def test_an_image_that_opencv_refuses_is_named_before_anything_runs(krimp, copy, tmp_path):
    """Its chunks have the right checksums, and it has an end; a color type that does not exist says enough."""
    import struct
    import zlib

    image = sorted((copy / "test" / "images").iterdir())[0]
    body = b"IHDR" + struct.pack(">IIBBBBB", 96, 96, 8, 9, 0, 0, 0)  # colour type 9 does not exist
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    image.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + end)
    stages = "  - {stage: train, epochs: 1, max_steps: 1, batch_size: 2}\n" + SCORE
    code, error = krimp(recipe_of(tmp_path, copy, stages))
    assert code == 3
    assert f"{image}: OpenCV cannot decode" in error
    assert artifacts_of(tmp_path) == []


@pytest.mark.parametrize("line", ["1 1 9 1 9 1 1 1 ship 0", "300 1 309 1 309 9 300 9 ship 0"])
def test_an_empty_box_is_told_and_the_run_goes_on(krimp, copy, tmp_path, line):
    places = append(line)(copy)
    stages = "  - {stage: train, epochs: 1, max_steps: 1, batch_size: 2}\n"
    code, error = krimp(recipe_of(tmp_path, copy, stages))
    assert code == 0
    assert "1 boxes were dropped" in error
    for place in places:
        assert place in error


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({" channels: 8": " channels: 16"}, "expected (16,"),
        ({"backbone: resnet18, base_channels: 8": "backbone: mobilenet_v2"}, "missing backbone.conv1.conv.weight"),
        (
            {"[ship, vehicle, plane]": "[ship, vehicle]", "[dontcare]": "[dontcare, plane]"},
            "the file was trained for 3 classes, detector.classes lists 2",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_with_its_tensors(krimp, data, tmp_path, changes, expected):
    from safetensors.torch import save_file

    from compress.plugins import make_detector
    from compress.recipe.loading import load_recipe
    from compress.training.checkpoint import tensors_of

    recipe = load_recipe(recipe_of(tmp_path, data))
    model = make_detector(recipe.detector, recipe.data).build()
    save_file({name: value.clone() for name, value in tensors_of(model).items()}, tmp_path / "other.safetensors")
    path = recipe_of(tmp_path, data, SCORE, f", checkpoint: {tmp_path}/other.safetensors")
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    code, error = krimp(path)
    assert code == 3
    assert f"stage float: {tmp_path}/other.safetensors: " in error
    assert expected in error
    assert artifacts_of(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"no weights at all", np.arange(100).tobytes()])
def test_a_file_that_holds_no_weights_is_refused(krimp, data, tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    path = recipe_of(tmp_path, data, SCORE, f", checkpoint: {tmp_path}/w.safetensors")
    code, error = krimp(path)
    assert code == 3
    assert f"{tmp_path}/w.safetensors: no readable weights" in error


def test_a_learning_rate_that_blows_up_stops_and_keeps_the_last_good_state(krimp, data, tmp_path):
    from compress.training.checkpoint import load_checkpoint

    stages = (
        "  - {stage: train, epochs: 30, batch_size: 2, optimizer: sgd, lr: 1000000.0, warmup_steps: 0, "
        "grad_clip: null, checkpoint_minutes: 0}\n"
    )
    code, error = krimp(recipe_of(tmp_path, data, stages))
    assert code == 4
    for text in ("stage train: step ", "loss or gradient is not finite", "Lower lr (now 1e+06)"):
        assert text in error
    (scratch,) = (tmp_path / "out" / "small" / ".scratch").glob("train-*")
    position, parts = load_checkpoint(scratch)
    assert f"{scratch}/training.safetensors" in error
    assert position.step >= 1
    assert all(np.isfinite(value.numpy()).all() for value in parts["model"].values())
    assert artifacts_of(tmp_path) == []


def test_a_plugin_whose_framework_is_not_installed_is_refused_at_once(krimp, data, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torchvision" else real(name, *rest)
    )
    code, error = krimp(recipe_of(tmp_path, data))
    assert code == 3
    assert "plug-in 'dcfl' needs torchvision, which is not installed" in error
    assert 'Run: make setup (in Krimp\'s folder), or pip install ".[compress]" there.' in error
    assert not (tmp_path / "out").exists()


def test_a_plugin_that_needs_openmmlab_names_its_extra(monkeypatch):
    import importlib.util

    from compress.errors import DetectorError
    from compress.plugins import check_frameworks, find_plugin

    found = {"mmcv": None, "mmdet": None, "mmengine": object(), "mmrotate": object()}
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: found[name] if name in found else real(name, *rest)
    )
    with pytest.raises(DetectorError) as error:
        check_frameworks(find_plugin("openmmlab"))
    assert "plug-in 'openmmlab' needs mmcv, mmdet, which is not installed" in str(error.value)
    assert 'Run: make setup-openmmlab (in Krimp\'s folder), or pip install ".[compress,openmmlab]" there.' in str(
        error.value
    )
