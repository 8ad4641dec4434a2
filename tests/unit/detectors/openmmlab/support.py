"""How far one configuration comes: builds, learns, prunes, quantises, exports, equals torch. One row of the README."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from small_detectors import enliven, scene, small, smooth_images, train_step

from compress.codec import pack_file, unpack_file
from compress.errors import CompressError
from compress.export import check_parity, export_onnx
from compress.pruning.structured import PruningRules, PruningSettings, measure_cost, prune_step
from compress.quantization import QuantisationSettings, calibrate, quantise

STEPS = ("builds", "learns", "prunes", "QAT", "exports", "parity")
PARITY_LIMIT = 0.03
FAILURES = (CompressError, RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError, AttributeError)


@dataclass
class Support:
    """What one configuration can do.

    Attributes:
        config: name of the configuration.
        done: steps that worked, in order.
        reason: why the next one did not; empty if all did.
        parity: largest relative error of an output, ONNX Runtime against the fake-quantised model.
        seconds: of each step.
    """

    config: str
    done: list[str] = field(default_factory=list)
    reason: str = ""
    parity: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def try_config(config, *, size=128, until="parity"):
    """Take a narrow version of a configuration as far as it goes."""
    result = Support(config)
    work = _steps(config, size, result)
    for step in STEPS:
        start = time.perf_counter()
        try:
            next(work)
        except FAILURES as error:
            result.reason = f"{step}: {_short(error)}"
            break
        result.seconds[step] = time.perf_counter() - start
        result.done.append(step)
        if step == until:
            break
    return result


def _short(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 220 else text[:217] + "..."


def _steps(config, size, result):
    torch.manual_seed(0)
    detector = small(config, size=size)
    model = enliven(detector.build())
    with torch.no_grad():
        model(detector.example_input(1))
    yield "builds"

    losses = train_step(detector, model, scene(size=size))
    assert all(value == value and abs(value) < 1e12 for value in losses.values()), f"losses {losses}"
    yield "learns"

    enliven(model)
    example = detector.example_input(1)
    with torch.no_grad():
        shapes = [one.shape for one in model(example)]
    rules = PruningRules(detector.not_prunable(model), detector.custom_pruners(model))
    full = measure_cost(model, example, "macs")
    stepped = prune_step(model, example, round(0.75 * full), rules=rules, settings=PruningSettings(importance="magnitude"))
    assert abs(stepped.cost_after / full - 0.75) < 0.03
    with torch.no_grad():
        assert [one.shape for one in model(example)] == shapes
    train_step(detector, model, scene(size=size))
    yield "prunes"

    enliven(model)
    quantised = quantise(model, QuantisationSettings(), detector)
    calibrate(quantised, list(smooth_images(4, seed=0, size=size).split(1)))
    train_step(detector, quantised, scene(size=size))
    assert any(type(layer).__name__ == "QuantisedConv2d" and layer.integer for layer in quantised.modules())
    yield "QAT"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(quantised, path, detector=detector)
        yield "exports"

        images = list(smooth_images(2, seed=1, size=size).split(1))
        errors = check_parity(quantised, path, images, names=detector.output_names(), limit=PARITY_LIMIT)
        result.parity = max(errors.values())
        pack_file(path, path.with_suffix(".krimp"))
        unpack_file(path.with_suffix(".krimp"), path.with_suffix(".again"))
        assert path.with_suffix(".again").read_bytes() == path.read_bytes()
        yield "parity"
