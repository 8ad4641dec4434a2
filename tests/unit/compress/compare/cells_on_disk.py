"""Networks that find coloured cells, and data sets of pictures with such cells, on disk: for `compare` and `gate`."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "shrink"))

import colour_cells
from colour_cells import CLASSES, COLUMNS, COUNT, HEIGHT, WIDTH, corners

from compress.artifact import Artifact, new_folder, seal
from compress.kind import Kind
from detectors.heads.metadata import InputForm, Thresholds, head_metadata


def write_model(path, *, moved=0, weaker=0.0, threshold=0.05, note=""):
    """Write a network that says how it is run; return its path.

    Args:
        path: of the ONNX file.
        moved: px by which its boxes are off: at 2 it is right at six thresholds of ten.
        weaker: share of a green cell's brightness that is lost: those below the threshold are not found.
        threshold: of its scores.
        note: a property without meaning, so that two files differ.
    """
    form = InputForm(resize=None)
    meta = head_metadata(
        "yolov8", {}, classes=CLASSES, input_size=(HEIGHT, WIDTH), output_names=("boxes_and_scores",), form=form,
        thresholds=Thresholds(score=threshold),
    )  # fmt: skip
    centres = colour_cells.CENTRES.copy()
    try:
        colour_cells.CENTRES = centres + np.array([moved, 0, 0, 0], np.float32)
        colours = ((1, 0, 0), (0, 1 - weaker, 0))
        metadata = {"krimp.deploy": json.dumps(meta | {"resize": {"kind": "stretch"}})}
        return colour_cells.write(path, metadata=metadata | ({"note": note} if note else {}), colours=colours)
    finally:
        colour_cells.CENTRES = centres


def write_data(root, count, *, seed=0, split="val"):
    """Write a data set in COCO format: black pictures with two to six cells, some of them dark; return its root."""
    rng = np.random.default_rng(seed)
    folder = root / "images" / split
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        places = rng.choice(COUNT, size=rng.integers(2, 7), replace=False)
        cells = [(p // COLUMNS, p % COLUMNS, int(rng.integers(2)), int(rng.integers(60, 256))) for p in places]
        colour_cells.picture(folder, f"scene{number:03d}", cells)
        images.append({"id": number, "file_name": f"scene{number:03d}.png", "width": WIDTH, "height": HEIGHT})
        for row, column, label, _ in cells:
            x1, y1, x2, y2 = map(int, corners(row, column))
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


def seal_stage(root, number, label, stage, kind, facts, *, lineage=(), files=None, key_parts=None):
    """Seal a stage's folder in a run."""
    name = f"{number:02d}_{label}"
    folder = new_folder(root, name)
    for file, content in (files or {}).items():
        content(folder / file) if callable(content) else (folder / file).write_bytes(content)
    draft = Artifact(folder, stage, label, kind, "k" * 64, "", facts, 1.0, 0, (*lineage, label), key_parts)
    return seal(draft, root=root, name=name)


def write_run(root, *, drop=0.0, images=60, digest="d1", seed=0, spread=0.02, with_report=None):
    """Write a run: an ONNX file, its scores with resamples on `val`, and a latency; return its folder.

    Args:
        root: the folder.
        drop: of map, 0..1, below 0.6.
        images: that were scored.
        digest: of the split.
        seed: of what the model alone draws.
        spread: of what it alone draws.
        with_report: text of a report.json, or None.
    """
    shared = np.random.default_rng(0).normal(0, 0.05, 1000)
    resampled = 0.6 - drop + shared + np.random.default_rng(seed + 1).normal(0, spread, 1000)
    scores = {"map": 0.6 - drop, "map_interval": [0.5 - drop, 0.7 - drop], "map50": 0.9, "num_images": images,
              "num_objects": 4 * images, "max_dets": 100}  # fmt: skip
    seal_stage(
        root,
        0,
        "export_onnx",
        "export_onnx",
        Kind.ONNX,
        {},
        files={"model.onnx": lambda path: write_model(path, note=root.name)},
    )
    seal_stage(
        root, 1, "score", "evaluate", Kind.SCORES,
        {"of": "export_onnx", "split": "val", "limit": None, "scores": scores},
        lineage=("export_onnx",),
        files={"map_resampled.npy": lambda path: np.save(path, resampled)},
        key_parts={"data": {"val": digest}, "detector": {"classes": list(CLASSES)}},
    )  # fmt: skip
    seal_stage(
        root, 2, "benchmark", "benchmark", Kind.LATENCY,
        {"models": {"export_onnx": {"latency_ms_p50": 5.0}}, "cpu": "a CPU", "threads": 1},
    )  # fmt: skip
    if with_report is not None:
        seal_stage(root, 3, "report", "report", Kind.REPORT, {}, files={"report.json": with_report.encode()})
    return root
