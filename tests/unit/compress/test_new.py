"""A first recipe from a data folder and a plug-in."""

from __future__ import annotations

import pytest

from compress.cli.main import main


@pytest.mark.parametrize("detector", ["dcfl", "torchvision"])
def test_a_first_recipe_is_written_from_a_data_folder_and_says_what_is_left_to_fill_in(tmp_path, capsys, detector):
    from detectors.data.synthetic import write_dataset
    from detectors.data.synthetic_scenes import SceneSettings

    data, out = tmp_path / "data", tmp_path / "mine.yaml"
    write_dataset(data, SceneSettings(size=(96, 128), counts={"train": 2, "val": 1}, empty_share=0.0))
    assert main(["new", "--data", str(data), "--detector", detector, "-o", str(out)]) == 0
    assert ("next: krimp plan" if detector == "dcfl" else "detector: required field 'model'") in capsys.readouterr().out
    text = out.read_text()
    assert "image_size: [96, 128]" in text
    assert "&id" not in text
    assert "{stage: report, split: val}" in text
    assert main(["new", "--data", str(data), "-o", str(out)]) == 2
    assert out.read_text() == text
    assert main(["new", "--data", str(tmp_path), "-o", str(tmp_path / "b.yaml")]) == 3
    assert not (tmp_path / "b.yaml").exists()
