"""COCO results of `krimp detect`, and masks, as the COCO API (which OpenMMLab brings) reads and writes them."""

import json

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.runtime.documents import CocoIds, coco_results
from detectors.data.run_lengths import read_mask

SHIP = {"class": "ship", "label": 1, "score": 0.75, "corners": [10.0, 5.0, 40.0, 20.0, 35.0, 30.0, 5.0, 15.0]}
LORRY = {"class": "large-vehicle", "label": 0, "score": 0.5, "corners": [0, 0, 8, 0, 8, 4, 0, 4]}
ANNOTATIONS = {
    "images": [
        {"id": 139, "file_name": "a/000000000139.jpg", "width": 64, "height": 48},
        {"id": 7, "file_name": "b/000000000139.jpg", "width": 64, "height": 48},
    ],
    "categories": [{"id": 90, "name": "large vehicle"}, {"id": 3, "name": "ship"}],
}
IDS = CocoIds.from_document(ANNOTATIONS, "val.json")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_coco_api_scores_perfect_results_as_perfect(tmp_path, iou_type):
    rows = coco_results([("a/000000000139.jpg", [SHIP, LORRY]), ("b/000000000139.jpg", [LORRY])], IDS)
    annotations = [
        {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        | {key: row[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        for number, row in enumerate(rows, start=1)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(ANNOTATIONS | {"annotations": annotations}))
    (tmp_path / "found.json").write_text(json.dumps(rows))
    truth = COCO(str(tmp_path / "truth.json"))
    scoring = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), iou_type)
    scoring.evaluate()
    scoring.accumulate()
    scoring.summarize()
    assert scoring.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(8))
def test_masks_that_the_coco_api_compressed_are_read_as_they_were(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 200, 2)
    mask = (rng.random(size) < rng.random()).astype(np.uint8)
    if seed % 2:  # long runs: whole rows and columns
        mask = np.repeat(np.repeat(mask, 3, axis=0), 40, axis=1)
    packed = masks.encode(np.asfortranarray(mask))
    counts, height, width = read_mask({"size": list(packed["size"]), "counts": packed["counts"].decode()})
    values = np.arange(len(counts)) % 2
    np.testing.assert_array_equal(np.repeat(values, counts).reshape(width, height).T, mask)
