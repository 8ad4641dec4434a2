"""What every detector promises about its deployed part: NumPy in, NumPy and JSON out, from the metadata alone."""

from __future__ import annotations

import inspect
import json
from importlib import import_module

import numpy as np
import pytest

from compress.detector import Deploy
from compress.errors import DetectorError
from compress.plugins import find_plugin, load_deploy


@pytest.fixture
def meta(detector):
    """Return the metadata as a model file gives it back."""
    return json.loads(json.dumps(detector.metadata()))


@pytest.fixture
def deploy(meta):
    return load_deploy(meta)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (100, 90, 3), dtype=np.uint8)


@pytest.fixture
def found(deploy, meta, raw, detector):
    """Return detections of one picture, some of them for sure."""
    (first, _) = deploy.postprocess(raw, image_size=detector.data.image_size, score_threshold=0.0)
    assert len(first) > 0
    return first


def test_metadata_survives_json_and_is_what_the_deployed_part_needs(detector, deploy, meta, case):
    assert meta == detector.metadata()
    assert meta["plugin"] == case.plugin
    assert meta["output_names"] == list(detector.output_names())
    assert deploy.meta == meta
    assert deploy.image_size == tuple(meta["image_size"])
    assert deploy.classes == tuple(meta["classes"])
    assert deploy.score_threshold == meta["score_threshold"]


def test_metadata_that_lacks_something_or_is_newer_is_refused(meta):
    make_deploy = import_module(find_plugin(meta["plugin"]).DEPLOY).make_deploy
    with pytest.raises(DetectorError):
        make_deploy({})
    with pytest.raises(DetectorError):
        load_deploy({})
    with pytest.raises(DetectorError, match="classes"):
        load_deploy({key: value for key, value in meta.items() if key != "classes"})
    with pytest.raises(DetectorError, match="format_version"):
        load_deploy(meta | {"format_version": 1000})


def test_the_deployed_part_has_every_member_with_the_arguments_the_engine_gives(deploy):
    members = {name: member for name, member in vars(Deploy).items() if not name.startswith("_")}
    assert all(hasattr(deploy, name) for name in members)
    for name, member in members.items():
        if not inspect.isfunction(member):
            continue
        wanted = list(inspect.signature(member).parameters.values())[1:]
        positional = [object() for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]
        named = {p.name: object() for p in wanted if p.kind is p.KEYWORD_ONLY}
        needed = {p.name: object() for p in wanted if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
        found = inspect.signature(getattr(deploy, name))
        found.bind(*positional, **named)
        found.bind(*positional, **needed)


def test_a_picture_becomes_the_networks_input_and_stays_as_it_is(deploy, meta, detector, picture):
    before = picture.copy()
    images = deploy.preprocess(picture, minimum_size=detector.data.image_size)
    assert images.dtype == np.float32
    assert images.shape == tuple(detector.example_input(1).shape)
    assert np.array_equal(picture, before)
    smallest = deploy.preprocess(picture)
    assert smallest.shape[2] >= 100
    assert smallest.shape[3] >= 90
    assert np.array_equal(images[:, :, :100, :90], smallest[:, :, :100, :90])
    with pytest.raises(DetectorError):
        deploy.preprocess(picture[..., 0])


def test_detections_of_a_batch_are_those_of_its_images(deploy, meta, raw, detector):
    size = detector.data.image_size
    before = [array.copy() for array in raw]
    together = deploy.postprocess(raw, image_size=size, score_threshold=0.0)
    alone = [
        deploy.postprocess([array[n : n + 1] for array in raw], image_size=size, score_threshold=0.0)[0]
        for n in range(2)
    ]
    assert all(len(one) > 0 for one in together)
    assert [deploy.to_json(one) for one in together] == [deploy.to_json(one) for one in alone]
    assert all(np.array_equal(array, copy) for array, copy in zip(raw, before, strict=True))


def test_scores_fall_lie_above_the_threshold_and_a_higher_threshold_keeps_the_best(deploy, meta, raw, detector):
    size = detector.data.image_size
    (low, _) = deploy.postprocess(raw, image_size=size, score_threshold=0.0)
    scores = [record["score"] for record in deploy.to_json(low)]
    assert scores == sorted(scores, reverse=True)
    middle = float(np.median(scores))
    if middle == scores[0]:  # a fresh network may give most boxes the same score
        middle = float(np.nextafter(np.float32(middle), np.float32(0)))
    (high, _) = deploy.postprocess(raw, image_size=size, score_threshold=middle)
    kept = [record["score"] for record in deploy.to_json(high)]
    assert 0 < len(kept) <= len(scores)
    assert min(kept) >= middle - 1e-6
    assert kept[0] == scores[0]


def test_records_are_json_with_class_and_score_and_text_has_a_line_each(deploy, meta, found):
    records = deploy.to_json(found)
    assert json.loads(json.dumps(records)) == records
    assert len(records) == len(found)
    assert all(record["class"] in meta["classes"] and 0 <= record["score"] <= 1 for record in records)
    assert len(deploy.to_text(found).splitlines()) == len(found)


def test_drawing_gives_a_picture_and_leaves_the_given_one(deploy, meta, found, picture):
    before = picture.copy()
    drawn = deploy.draw(picture, found, score_threshold=0.0)
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3
    assert drawn.shape[0] >= picture.shape[0]
    assert np.array_equal(picture, before)
    assert not np.array_equal(deploy.draw(picture, found), deploy.draw(picture, found, score_threshold=1.0))


def test_windows_cover_any_picture(deploy, meta, detector):
    height, width = detector.data.image_size
    for size in ((height, width), (height // 2, width), (2 * height + 7, 3 * width - 5)):
        covered = np.zeros(size, bool)
        for x, y, w, h in deploy.tile_windows(size):
            assert w <= width
            assert h <= height
            covered[y : y + h, x : x + w] = True
        assert covered.all()
    with pytest.raises(DetectorError, match="overlap"):
        deploy.tile_windows((height, width), overlap_px=10 * height)


def test_merging_one_window_changes_nothing_and_equal_windows_give_each_object_once(deploy, meta, found, detector):
    size, one = detector.data.image_size, found
    windows = deploy.tile_windows(size)
    merged = deploy.merge([one], windows, image_size=size)
    assert deploy.to_json(merged) == deploy.to_json(one)
    both = deploy.merge([one, one], windows * 2, image_size=size)
    assert 0 < len(both) <= len(one)


def test_a_network_gone_wrong_finds_nothing(deploy, meta, raw, detector):
    broken = [np.full_like(array, np.nan) for array in raw]
    for detections in deploy.postprocess(broken, image_size=detector.data.image_size):
        assert len(detections) == 0


def test_raw_outputs_that_do_not_fit_are_refused(deploy, meta, raw, detector):
    with pytest.raises(DetectorError):
        deploy.postprocess(raw[:-1], image_size=detector.data.image_size)
    with pytest.raises(DetectorError):
        deploy.postprocess([raw[0][:, :-1], *raw[1:]], image_size=detector.data.image_size)
