"""The judge on models and labels that nobody here made for it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress.pictures.header import SUFFIXES
from compress.shrink.judge import make_judge, metadata_of
from compress.shrink.judge.properties import deploy_metadata, preprocessing_of, properties_of
from compress.shrink.network import open_network
from compress.shrink.pictures import Inputs, Preprocessing

ROOT = Path(__file__).resolve().parents[4]
SHARED = ROOT.parent / "shared"
HIT_UAV = SHARED / "data" / "hit-uav" / "val"
FASTESTDET, PPOCR = (SHARED / "models" / name for name in ("FastestDet.onnx", "ppocrv4_det.onnx"))


def noisy(network, share):
    """Return the model with noise in its kernels, `share` of the spread of each."""
    model, rng = onnx.ModelProto(), np.random.default_rng(0)
    model.CopyFrom(network.model)
    for number, one in enumerate(model.graph.initializer):
        value = numpy_helper.to_array(one)
        if value.ndim == 4 and value.dtype == np.float32:
            value = value + share * value.std() * rng.standard_normal(value.shape).astype(np.float32)
            model.graph.initializer[number].CopyFrom(numpy_helper.from_array(value, one.name))
    return model


def package_pictures(count):
    """Return pictures that scikit-image ships."""
    import skimage  # of the OpenMMLab set-up

    folder = Path(skimage.__file__).parent / "data"
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and "multipage" not in path.name)[:count]


@pytest.mark.slow
@pytest.mark.skipif(not HIT_UAV.is_dir(), reason=f"{HIT_UAV} is absent")
def test_a_dcfl_without_metadata_has_the_map_that_the_project_gives_it(tmp_path):
    from benchmarks.post_training import load_float
    from compress.export import export_onnx
    from compress.runtime.forwards import onnx_forward
    from compress.scoring import evaluate
    from detectors.data.formats.dota import DotaData, DotaDataset
    from detectors.dcfl.adapter import Dcfl
    from detectors.geometry.pictures import IMAGENET_MEAN, IMAGENET_STD

    weights = str(ROOT / "detectors/dcfl/zoo/dcfl_mbv2_hituav.safetensors")
    names = ["person", "car", "bicycle"]
    config = Dcfl.CONFIG(backbone="mobilenet_v2", channels=64, classes=names, checkpoint=weights)
    data = DotaData(root=str(HIT_UAV.parent), image_size=(512, 640), ignore=["dontcare"], merge={"othervehicle": "car"})
    detector = Dcfl(config, DotaDataset(data, config.classes))
    own, plain = tmp_path / "own.onnx", tmp_path / "plain.onnx"
    export_onnx(load_float(detector), own, detector=detector)
    stripped = onnx.load(own)
    del stripped.metadata_props[:]
    onnx.save(stripped, plain)
    wanted = evaluate(detector, onnx_forward(own, 1), "val")

    files = sorted((HIT_UAV / "images").iterdir())
    classes = ["person", "car+othervehicle", "bicycle"]
    network = open_network(plain)
    entering = Preprocessing((512, 640), scale=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    judge = make_judge(
        network, Inputs(network, files, entering), model_path=plain, labels=HIT_UAV / "labelTxt", classes=classes
    )
    assert "Head dcfl, guessed" in judge.told
    assert "148 pictures, 1370 objects" in judge.told
    assert (judge.own.map, judge.own.map75, judge.own.map50) == (wanted.map, wanted.map75, wanted.map50)
    verdict = judge(noisy(network, 0.1))
    assert 0 < verdict.low < verdict.loss < verdict.high

    meta = deploy_metadata(properties_of(own), own.name)
    assert preprocessing_of(meta).fit == "pad"
    judge = make_judge(
        network, Inputs(network, files[:20], preprocessing_of(meta)), model_path=own, labels=HIT_UAV / "labelTxt",
        classes=classes,
    )  # fmt: skip
    assert json.loads(metadata_of(judge)["krimp.deploy"]) == meta


@pytest.mark.openmmlab  # its set-up has scikit-image, whose pictures are looked at
@pytest.mark.skipif(not FASTESTDET.is_file(), reason=f"{FASTESTDET} is absent")
def test_a_fastestdet_agrees_with_itself_and_less_with_more_noise(tmp_path):
    import cv2

    from compress.runtime.detect import open_predictor

    network = open_network(FASTESTDET)
    entering = Preprocessing((352, 352), bgr=True, fit="stretch")
    files = package_pictures(26)
    judge = make_judge(network, Inputs(network, files, entering), model_path=FASTESTDET)
    assert (judge.kind, judge.own.map) == ("agreement", 1)
    assert "Head fastestdet, guessed" in judge.told
    same = judge(network.model)
    assert (same.loss, same.low, same.high) == (0, 0, 0)
    little, much = judge(noisy(network, 0.002)), judge(noisy(network, 0.01))
    assert 0 < little.loss < much.loss < 100
    assert little.cosines["758"] > much.cosines["758"]

    small = onnx.load(FASTESTDET)
    onnx.helper.set_model_props(small, metadata_of(judge))
    onnx.save(small, tmp_path / "small.onnx")
    predictor = open_predictor(tmp_path / "small.onnx")
    for number in (0, 5, 9):
        found = predictor.detect(cv2.imread(str(files[number])))
        outputs, size = judge.reference.outputs(number), judge.reference.sizes[number]
        (wanted,) = predictor.deploy.postprocess(outputs, image_size=size)
        assert len(found) == len(wanted) > 0
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


@pytest.mark.openmmlab  # as above
@pytest.mark.skipif(not PPOCR.is_file(), reason=f"{PPOCR} is absent")
def test_a_network_without_boxes_is_judged_by_its_output():
    network = open_network(PPOCR)
    entering = Preprocessing((320, 320), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    judge = make_judge(network, Inputs(network, package_pictures(6), entering), model_path=PPOCR)
    assert (judge.kind, metadata_of(judge)) == ("outputs", {})
    assert "No built-in head has the outputs" in judge.told
    assert judge(network.model).loss == 0
    little, much = judge(noisy(network, 0.003)), judge(noisy(network, 0.03))
    assert 0 < little.loss < much.loss
