"""The table of stages: the name in a recipe -> the class. One line each, nothing registers itself."""

from __future__ import annotations

from compress.stage import Stage
from compress.stages.benchmark import Benchmark
from compress.stages.evaluate import Evaluate
from compress.stages.export_onnx import ExportOnnx
from compress.stages.finetune import Finetune
from compress.stages.load_float import LoadFloat
from compress.stages.pack import Pack
from compress.stages.prune_structured import PruneStructured
from compress.stages.prune_unstructured import PruneUnstructured
from compress.stages.qat import Qat
from compress.stages.report import Report
from compress.stages.round_weights import RoundWeights
from compress.stages.sensitivity import Sensitivity
from compress.stages.train import Train

STAGES: dict[str, type[Stage]] = {
    "load_float": LoadFloat,
    "train": Train,
    "evaluate": Evaluate,
    "sensitivity": Sensitivity,
    "prune_structured": PruneStructured,
    "finetune": Finetune,
    "prune_unstructured": PruneUnstructured,
    "qat": Qat,
    "round_weights": RoundWeights,
    "export_onnx": ExportOnnx,
    "pack": Pack,
    "benchmark": Benchmark,
    "report": Report,
}
