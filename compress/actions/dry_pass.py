"""What the stages would do to the network, done to one with fresh weights on a small picture of noise.

Nothing is trained and no data is read. Each stage calls what it calls in earnest, writes its model and reads it back,
so what would break behind days of training breaks here. A stage that fails on the small picture is tried once more at
the deployed size before it counts: some networks need their size.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.actions.prune_structured import check_loads, pruning_rules, pruning_settings
from compress.actions.quiet import quiet
from compress.detector import Detector
from compress.errors import CompressError, StageError, suggest
from compress.kind import Kind
from compress.metrics.complexity import measure_complexity
from compress.model_folder import Build, load_model, save_model
from compress.pruning.budget import Meter
from compress.pruning.cost_model import Count
from compress.pruning.kept import costs_of, kept_lines
from compress.pruning.steps import prune_in_steps
from compress.pruning.target import COUNTED
from compress.pruning.unstructured import sparse_layer_names
from compress.rate_rounding.layer import exponents_of, steps_of
from compress.recipe.plan import PlannedStage
from compress.stages.export_onnx import ExportOnnx
from compress.stages.prune_structured import PruneStructured
from compress.stages.prune_unstructured import PruneUnstructured
from compress.stages.qat import Qat
from compress.stages.round_weights import RoundWeights

if TYPE_CHECKING:
    from compress.stage import Stage

SMALL_PX = (128, 256)  # sides that are tried: a cell of stride 128 is one pixel of the coarsest map
MEASURED_SHARE = 0.5  # of the MACs, where the target is a time or a size
MOST_STEPS = 2  # the second step prunes a pruned network; more show nothing new


def run(plan: Sequence[PlannedStage], detector: Detector, folder: Path) -> dict[str, Any]:
    """Take a fresh network through the stages of a plan.

    Args:
        plan: all stages, in order.
        detector: the plug-in.
        folder: empty; what is written is not kept.

    Returns:
        `image_size` that was enough; `kept`, lines that say which layers keep their channels though nobody said so; and
        `refused`: None, or `label` of the stage, `text` why it cannot work, and whether that `was_meant`: said on
        purpose rather than a fault that nobody foresaw.
    """
    torch.set_num_threads(1)  # of the child: nothing here is worth the threads' waiting for each other
    refused = None
    for number, size in enumerate(_sizes(detector)):
        sized: Any = _Sized(detector, size)
        with quiet():
            rehearsal = Rehearsal(sized, folder / str(number))
            refused = rehearsal.run(_worth_it(plan))
        if refused is None:
            return {"image_size": list(size), "kept": rehearsal.kept, "refused": None}
    return {"image_size": None, "kept": [], "refused": refused}


class _Sized:
    """A plug-in whose example has another size."""

    def __init__(self, detector: Detector, size: tuple[int, int]) -> None:
        self._detector = detector
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def example_input(self, batch_size: int = 1) -> Tensor:
        """Return noise of that size, (N, 3, H, W) float32."""
        example = self._detector.example_input(batch_size)
        return torch.rand(batch_size, example.shape[1], *self._size, generator=torch.Generator().manual_seed(0))


def _sizes(detector: Detector) -> Iterator[tuple[int, int]]:
    """Yield the smallest size that the network takes, then the deployed one."""
    height, width = (int(side) for side in detector.example_input(1).shape[2:])
    for side in SMALL_PX:
        if side < min(height, width) and _takes(detector, side):
            yield side, side
            break
    yield height, width


def _takes(detector: Detector, side: int) -> bool:
    """Return whether a fresh network computes its outputs from a square picture."""
    try:
        with torch.no_grad(), quiet():
            raw = detector.build().eval()(torch.zeros(1, 3, side, side))
        return len(raw) >= len(detector.output_names())
    except Exception:  # noqa: BLE001 whatever stops it, a larger picture is tried
        return False


class Rehearsal:
    """The models that the stages leave, one folder a stage, as in earnest."""

    def __init__(self, detector: Detector, folder: Path) -> None:
        self._detector = detector
        self._folder = folder
        self.kept: list[str] = []  # lines of the first pruning: the next ones meet the same layers

    def run(self, stages: Sequence[PlannedStage]) -> dict[str, Any] | None:
        """Take a network through stages that make models and files of them; return the first refusal, or None."""
        read_later = {planned.inputs.get("source") for planned in stages}
        for planned in stages:
            target = self._folder / planned.label
            target.mkdir(parents=True)
            try:
                self._stage(planned.stage, self._folder / planned.inputs.get("source", ""), target)
                if planned.stage.MAKES is not Kind.ONNX and planned.label not in read_later:
                    load_model(target, self._detector)
            except CompressError as error:
                return {"label": planned.label, "text": str(error), "was_meant": True}
            except Exception as error:  # noqa: BLE001 what nobody foresaw would end the run as well
                return {"label": planned.label, "text": _unforeseen(error), "was_meant": False}
        return None

    def first_model(self) -> nn.Module:
        """Return what the first stage leaves."""
        return self._detector.build()

    def make_sparse(self, stage: PruneUnstructured, model: nn.Module) -> None:
        """Ask for the layers that would be masked."""
        sparse_layer_names(model, stage.skip)

    def _stage(self, stage: Stage, source: Path, target: Path) -> None:
        if not stage.NEEDS:
            save_model(target, self.first_model(), Build())
        elif isinstance(stage, ExportOnnx):
            self._export(stage, source, target)
        else:
            model, build = load_model(source, self._detector)
            if isinstance(stage, PruneStructured):
                self._prune(stage, model)
            elif isinstance(stage, PruneUnstructured):
                self.make_sparse(stage, model)
            elif isinstance(stage, Qat):
                model, build = self._quantize(stage, model, build)
            elif isinstance(stage, RoundWeights):
                _fix_steps(model)
            if build.quantization is None:
                _check_points(self._detector, model)
            save_model(target, model, build)
            if isinstance(stage, PruneStructured):
                check_loads(model, target, self._detector, label=stage.label)

    def prune_limits(self, stage: PruneStructured, model: nn.Module) -> tuple[Mapping[str, float], Meter | None]:
        """Return the counts that a stage wants; a time or size of a small picture says nothing: half stands for it."""
        counts: tuple[str, ...] = COUNTED
        wanted = {name: value for name, value in stage.target.wanted.items() if name in counts}
        return wanted or {"macs": MEASURED_SHARE}, None

    def _prune(self, stage: PruneStructured, model: nn.Module) -> None:
        settings = pruning_settings(stage, seed=0)
        if settings.importance == "group_taylor":  # it needs losses, so labels; which channels go is not asked here
            settings = replace(settings, importance="magnitude")
        whole = measure_complexity(model, self._detector.example_input(1))
        wanted, meter = self.prune_limits(stage, model)
        result = prune_in_steps(
            model,
            self._detector.example_input(1),
            wanted,
            steps=min(stage.steps, MOST_STEPS),
            rules=pruning_rules(stage, model, self._detector),
            settings=settings,
            widths=stage.widths,
            losses=lambda _: (),
            after_step=lambda _: {},
            label=stage.label,
            meter=meter,
        )
        surprising = {name: reason for name, reason in result.not_prunable.items() if not reason.is_meant}
        count: Count = "macs" if "macs" in wanted else "params"
        self.kept = self.kept or kept_lines(model, surprising, costs_of(model, whole, count), unit=count)

    def _quantize(self, stage: Qat, model: nn.Module, build: Build) -> tuple[nn.Module, Build]:
        from compress.quantization import calibrate, quantize
        from compress.quantization.checks import check_bit_width_names
        from compress.quantization.graph import check_followed

        settings = stage.settings()
        check_followed(model, self._detector.example_input(1))
        quantized = quantize(model, settings, self._detector)
        check_bit_width_names(quantized, settings)
        calibrate(quantized, [self._detector.example_input(1)])
        if stage.rate is not None:
            _fix_steps(quantized)
        return quantized, build.model_copy(update={"quantization": settings.model_dump(mode="json")})

    def _export(self, stage: ExportOnnx, source: Path, target: Path) -> None:
        from compress.export import check_parity, export_onnx
        from compress.quantization.graph import check_followed

        detector, path = self._detector, target / "model.onnx"
        model, build = load_model(source, detector)
        if build.quantization is None:
            check_followed(model, detector.example_input(1))
        export_onnx(model, path, detector=detector, **stage.form())
        # A network without trained weights magnifies rounding: outputs are compared in form, not in value.
        images = [detector.example_input(1)]
        check_parity(model, path, images, names=detector.output_names(), limit=math.inf, label=stage.label)


def _worth_it(plan: Sequence[PlannedStage]) -> list[PlannedStage]:
    """Return the stages that make a model or a file of one.

    The export of a float model shows nothing that the export of a quantized one does not, and takes as long: it is left
    out where the plan has the latter.
    """
    kinds = {planned.label: planned.stage.MAKES for planned in plan}
    quantized = {
        planned.label
        for planned in plan
        if planned.stage.MAKES is Kind.ONNX and kinds.get(planned.inputs.get("source", "")) is Kind.QUANTIZED
    }
    return [
        planned
        for planned in plan
        if planned.stage.MAKES in (Kind.MODEL, Kind.QUANTIZED)
        or (planned.stage.MAKES is Kind.ONNX and (not quantized or planned.label in quantized))
    ]


def _fix_steps(model: nn.Module) -> None:
    """Give the layers steps of the grid, as rounding to a size leaves them; its integers are not asked for here."""
    from compress.quantization.checks import quantized_layers

    for layer in quantized_layers(model).values():
        _, steps = layer.integer_weight()
        layer.fix_steps(torch.from_numpy(steps_of(exponents_of(steps.numpy()))))


def _check_points(detector: Detector, model: nn.Module) -> None:
    """Refuse names of feature maps that the network has not; a teacher is asked for them."""
    names = [name for name, _ in model.named_modules()]
    for point in detector.distill_points(model):
        if point not in names:
            near = suggest(point, names)
            raise StageError(f"{detector.NAME}.distill_points names {point!r}, and the model has no such module.{near}")


def _unforeseen(error: Exception) -> str:
    """Return an error with its place in the code, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{at}"
