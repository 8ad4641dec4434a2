"""Action of stage export_onnx: one ONNX file, checked against the torch model on real images."""

from __future__ import annotations

from typing import Any

from compress.actions.model_facts import network_facts
from compress.export import check_parity, export_onnx
from compress.model_folder import load_model
from compress.names_file import write_names
from compress.onnx_graph.fusion import unfused_convolutions
from compress.progress import say
from compress.quantization.calibration import first_images
from compress.stage import StageContext
from compress.stages.export_onnx import ExportOnnx


def run(stage: ExportOnnx, context: StageContext) -> dict[str, Any]:
    """Export, compare, list what does not run in integers.

    Raises:
        StageError: the export failed, or an output differs by more than the limit.
    """
    detector = context.detector
    model, build = load_model(context.source.path, detector)
    path = context.folder / "model.onnx"
    facts = network_facts(context.source.facts)
    facts |= export_onnx(model, path, detector=detector, **stage.form())
    if facts["names"]:
        write_names(context.folder, facts["names"])
    if facts["removed"]:
        say(f"{stage.label}: {len(facts['removed'])} layers cut or stored as constants, as filters compute nothing")
    if facts["rewritten"]:
        say(f"{stage.label}: {len(facts['rewritten'])} layers padded or rearranged for the runtime's kernels")
    images = first_images(detector, stage.parity_split, stage.parity_images, seed=context.seed)
    errors = check_parity(
        model, path, images, names=detector.output_names(), limit=stage.parity_limit, label=stage.label
    )
    worst = max(errors, key=lambda name: errors[name])
    say(f"{stage.label}: {facts['onnx_bytes']:,} bytes; equals torch within {errors[worst]:.3%} ({worst})")
    facts["parity"] = {
        "relative_error": errors,
        "worst": errors[worst],
        "limit": stage.parity_limit,
        "images": stage.parity_images,
        "split": stage.parity_split,
    }
    if build.quantization is not None:
        reasons = detector.not_quantizable(model)
        unfused = unfused_convolutions(path, reasons, facts["names"])
        facts["unfused"] = [{"name": u.name, "reason": u.reason} for u in unfused]
        surprising = [u for u in unfused if u.layer not in reasons]
        say(f"{stage.label}: {len(unfused)} convolutions run in float, {len(surprising)} of them against the plan")
        for one in surprising:
            say(f"  {one.name}: {one.reason}")
    return facts
