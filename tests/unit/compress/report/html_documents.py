"""Reports to make pages of: one that holds everything, with names of a stranger in it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from compress.breakdown import ERROR_NAMES, Breakdown, Curve, ErrorType, ImageOutcome
from compress.report.document import Document, LeftOut, Picture, Requirement, Row, StageRecord, dump
from compress.report.forecast import ForecastCheck
from compress.report.layers import LayerRow
from compress.report.looks import Look, Looks

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"`{{7*7}}"


def made_of(lost: int) -> Breakdown:
    """Return a breakdown of 5 images, in which some objects more are missed the later the image."""
    box = (10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0)
    images = [
        ImageOutcome(name=f"image_{at}", objects=6, found=6 - lost * at, wrong=at, missed_corners=[box] * (lost * at))
        for at in range(5)
    ]
    return Breakdown(
        iou_threshold=0.5,
        background_iou=0.1,
        score_threshold=0.3,
        errors=[ErrorType(name=name, count=3 * at, points=1.5 * at) for at, name in enumerate(ERROR_NAMES)],
        curves=[
            Curve(name=name, objects=9, precision=[1 - at / 120 for at in range(101)]) for name in ("ship", HOSTILE)
        ],
        right_by_score=[1, 2, 3, 40],
        wrong_by_score=[400, 20, 3, 0],
        images=images,
    )


def a_row(label: str, stage: str, kind: str, value: float, **fields) -> Row:
    """Return a scored model."""
    values = {
        "after": None if label == "float" else "float",
        "map": value,
        "map_interval": (value - 0.03, value + 0.04),
        "map50": value + 0.3,
        "map50_interval": (value + 0.28, value + 0.33),
        "map_per_class": {"ship": value, HOSTILE: value - 0.1},
        "ap_per_class": {"ship": value + 0.3, HOSTILE: value + 0.2},
        "extra_scores": {"map_below_16px": value - 0.2, "map_from_32px": value + 0.1},
        "num_images": 5,
        "num_objects": 30,
        "params": 2_400_000,
        "macs": 900_000_000,
    }
    return Row(label=label, stage=stage, kind=kind, **(values | fields))


def full_document() -> Document:
    """Return a report with every part of a page."""
    rows = [
        a_row("float", "train", "model", 0.40, parameters_bytes=9_600_000),
        a_row(HOSTILE[:20], "qat", "quantized", 0.39, sparsity=0.6),
        a_row(
            "pack", "pack", "packed", 0.37, packed_bytes=520_000, compression_ratio=18.5, latency_ms_p50=48.0,
            speedup_p50=2.5, map_loss=0.03, map_loss_interval=(0.01, 0.05),
        ),
    ]  # fmt: skip
    times = {"latency_ms_p50": 120.0, "latency_ms_p90": 130.0, "latency_ms_p99": 150.0}
    history = [
        {"epoch": at, "losses": {"loss_cls": 1 / at, HOSTILE: 0.5 / at}, "map": 0.3 + at / 100, "metric": "map"}
        for at in range(1, 6)
    ]
    layers = [
        LayerRow(
            name=f"{name}.conv", macs=10**7 * (at + 1), params=1000, bit_width=6 if at else 32, integer=bool(at),
            zeros=0.1 * at, packed_bytes=900 * (at + 1), latency_ms=2.0 / (at + 1), error=0.05 * at, forecast_ms=1.5,
            float_reason=None if at else HOSTILE,
        )
        for at, name in enumerate(["stem", "body", HOSTILE])
    ] + [LayerRow(name="between layers", packed_bytes=4000, latency_ms=0.5)]  # fmt: skip
    return Document(
        name="a_run",
        created="2026-11-29T00:00:00+00:00",
        split="test",
        seed=3,
        recipe={
            "name": "a_run",
            "goal": None,
            "seed": 3,
            "detector": {"plugin": HOSTILE},
            "stages": [{"stage": "train"}],
        },
        recipe_digest="ab" * 32,
        float_label="float",
        final_label="pack",
        baseline_labels={"map": "float"},
        rows=rows,
        stages=[
            StageRecord(label=r.label, stage=r.stage, kind=r.kind, key="1" * 64, digest="2" * 64, lineage=[r.label])
            for r in rows
        ],
        benchmarks={
            "benchmark": {
                "models": {"float_onnx": times, "pack": {**times, "latency_ms_p50": 48.0}},
                "ratios": {"pack": {"speedup_p50": 2.5, "speedup_low": 2.4, "speedup_high": 2.6}},
                "reference": "float_onnx", "cpu": HOSTILE, "threads": 1,
            }
        },
        histories={"float": history},
        forecast_checks=[ForecastCheck(model="export", what="packed_bytes", forecast=5e5, measured=5.2e5)],
        looks=Looks(in_training=2, others=[Look(stage="a", of=HOSTILE)]),
        breakdowns={"float": made_of(0), "pack": made_of(1)},
        layers=layers,
        requirements=[
            Requirement(name="max_map_loss", limit=0.05, value=0.03, interval=(0.01, 0.05), ok=True, how="map"),
            Requirement(name="min_compression_ratio", limit=20, value=18.5, ok=False, how=HOSTILE),
            Requirement(name="max_packed_bytes", limit=600_000, value=520_000, ok=True, how="bytes"),
        ],
        requirements_met=False,
        left_out=[LeftOut(stage="qat", what="not quantized", layer=HOSTILE, reason=HOSTILE)],
        warnings=[HOSTILE],
        pictures=[a_picture(at) for at in range(3)],
        environment={"cpu": HOSTILE, "memory_bytes": 16e9, "versions": {"krimp": "0.1.0"}},
    )  # fmt: skip


def a_picture(at: int) -> Picture:
    """Return a picture of 40 x 60 px of two models, whose file has them side by side."""
    return Picture(
        file=f"picture_{at}.png",
        image=f"image_{at}",
        num_detections={"float": 6, "pack": 6 - at},
        size=(40, 60),
        panel=(0, 24, 120, 80),
        gap=6,
        missed={"pack": [(10, 10, 30, 10, 30, 30, 10, 30)]},
        wrong={"float": [(40, 10, 50, 10, 50, 30, 40, 30)]},
    )


def write_report(folder: Path, document: Document) -> Path:
    """Write report.json and its pictures: the first model's is red, the second one's blue."""
    for picture in document.pictures:
        pixels = np.full((104, 246, 3), 255, np.uint8)
        pixels[24:, :120] = (40, 40, 220)
        pixels[24:, 126:] = (220, 40, 40)
        cv2.imwrite(str(folder / picture.file), pixels)
    path = folder / "report.json"
    path.write_text(dump(document), encoding="utf-8")
    return path
