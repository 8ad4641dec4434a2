"""How far one configuration comes: builds, learns, prunes, quantizes, exports, equals torch. One row of the README."""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from small_detectors import enliven, scene, small, smooth_images, train_step

from compress.codec import pack_file, unpack_file
from compress.errors import CompressError
from compress.export import check_parity, export_onnx
from compress.export.parity import sensitivity
from compress.pruning.cost_model import measure_cost
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.structured import prune_step
from compress.quantization import QuantizationSettings, calibrate, quantize
from detectors.openmmlab.config import OpenMmlabConfig, config_folder, shipped_configs
from detectors.openmmlab.families import layout_of
from detectors.openmmlab.model_config import read_model_config

README = Path(__file__).parents[2] / "detectors" / "openmmlab" / "README.md"
BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"

STEPS = ("builds", "learns", "prunes", "QAT", "exports", "parity")
PARITY_LIMIT = 0.03  # relative error of each raw output of the quantized network
FLOAT_PARITY_LIMIT = 1e-3  # and of the float one
FAILURES = (
    CompressError, RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError, AttributeError,
    LookupError, ImportError,
)  # fmt: skip


@dataclass
class Support:
    """What one configuration can do.

    Attributes:
        config: name of the configuration.
        done: steps that worked, in order.
        reason: why the next one did not; empty if all did.
        parity: largest relative error of an output, ONNX Runtime against the fake-quantized model.
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
    text = re.sub(r"'?/[^\s']*/([^/\s']+)'?", r"\1", text).replace("|", "/")  # folders differ from machine to machine
    text = text.partition(", the current sys.path is")[0]  # differs from one way of running to the next
    return text if len(text) <= 260 else text[:257] + "..."


def _steps(config, size, result):
    torch.manual_seed(0)
    detector = small(config, size=size)
    model = detector.build().eval()
    with torch.no_grad():
        model(detector.example_input(1))
    yield "builds"

    train_step(detector, model, scene(size=size))
    yield "learns"

    enliven(model)
    example = detector.example_input(1)
    with torch.no_grad():
        shapes = [one.shape for one in model(example)]
    rules = PruningRules(detector.not_prunable(model), detector.custom_pruners(model))
    full = measure_cost(model, example, "macs")
    stepped = prune_step(
        model, example, {"macs": round(0.75 * full)}, rules=rules, settings=PruningSettings(importance="magnitude")
    )
    assert abs(stepped.after["macs"] / full - 0.75) < 0.03
    with torch.no_grad():
        assert [one.shape for one in model(example)] == shapes
    train_step(detector, model, scene(size=size))
    yield "prunes"

    enliven(model)
    quantized = quantize(model, QuantizationSettings(), detector)
    calibrate(quantized, list(smooth_images(4, seed=0, size=size).split(1)))
    train_step(detector, quantized, scene(size=size))
    assert any(type(layer).__name__ == "QuantizedConv2d" and layer.integer for layer in quantized.modules())
    yield "QAT"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        images, names = list(smooth_images(2, seed=1, size=size).split(1)), detector.output_names()
        export_onnx(model, path, detector=detector)
        check_parity(model, path, images, names=names, limit=FLOAT_PARITY_LIMIT)
        export_onnx(quantized, path, detector=detector)
        yield "exports"

        errors = check_parity(quantized, path, images, names=names, limit=math.inf)
        beyond = beyond_limit(errors, sensitivity(quantized, images))
        assert not beyond, f"parity: {beyond}"
        result.parity = max(errors.values())
        pack_file(path, path.with_suffix(".krimp"))
        unpack_file(path.with_suffix(".krimp"), path.with_suffix(".again"))
        assert path.with_suffix(".again").read_bytes() == path.read_bytes()
        yield "parity"


def beyond_limit(errors, own):
    """Return the outputs that differ by more than the limit, and by more than rounding errors explain.

    The deep networks are untrained. Rounding flips of a few activations then grow from layer to layer: moving the
    images of RTMDet-L by a millionth moved its quantized angles by 42 %. No two runtimes agree better than that.

    Args:
        errors: output name -> relative error between ONNX Runtime and torch.
        own: `sensitivity` of each output, in the same order.
    """
    limits = {name: max(PARITY_LIMIT, 2 * value) for name, value in zip(errors, own, strict=False)}
    return {name: (error, limits[name]) for name, error in errors.items() if not error <= limits[name]}


@dataclass(frozen=True)
class Group:
    """Configurations of one folder that describe networks of the same parts.

    Attributes:
        family: folder below MMRotate's configurations.
        parts: classes of detector, backbone and heads.
        configs: names; the first one is tried.
    """

    family: str
    parts: str
    configs: tuple[str, ...]


def groups():
    """Return all shipped configurations, grouped."""
    found = defaultdict(list)
    for name, path in shipped_configs().items():
        family = path.relative_to(config_folder()).parts[0]
        found[family, _parts(name)].append(name)
    return [Group(family, parts, tuple(names)) for (family, parts), names in found.items()]


def _parts(name):
    try:
        model = read_model_config(OpenMmlabConfig(config=name, classes=("a",))).model
    except CompressError:
        return "cannot be read"
    heads = re.findall(r"'type': '(?:\w+\.)?(\w*Head)'", str(dict(model)))
    backbone = str(model.backbone.type).rpartition(".")[2]
    return f"{layout_of(model).route}: {backbone}, {', '.join(dict.fromkeys(heads))}"


def row(group, result):
    """Return one line of the table."""
    marks = ["yes" if step in result["done"] else "no" for step in STEPS]
    failed = len(result["done"])
    marks = marks[: failed + 1] + ["-"] * (len(STEPS) - failed - 1)
    others = f" (+{len(group.configs) - 1})" if len(group.configs) > 1 else ""
    return (
        f"| {group.family} | `{group.configs[0]}`{others} | {group.parts} | {' | '.join(marks)} | {result['reason']} |"
    )


def table(results):
    """Return the table of the README."""
    head = f"| family | tried (and as many more alike) | route: parts | {' | '.join(STEPS)} | why not |"
    lines = [head, "|" + "---|" * (len(STEPS) + 4)]
    return "\n".join(lines + [row(group, results[group.configs[0]]) for group in groups()])


def committed_table():
    """Return the table that the README has."""
    return README.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def main():
    """Try all groups, and write the table into the README once all are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSON file of results so far; goes on where it ends")
    parser.add_argument("--only", nargs="*", default=[], help="try these configurations only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = json.loads(arguments.rows.read_text()) if arguments.rows.exists() else {}
    wanted = [group.configs[0] for group in groups()]
    for name in arguments.only or wanted:
        if name not in results:
            results[name] = asdict(try_config(name))
            arguments.rows.write_text(json.dumps(results, indent=1))
            print(name, results[name]["done"], results[name]["reason"], flush=True)
    if set(wanted) <= set(results):
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
