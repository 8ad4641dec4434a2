"""Stage export_onnx: one ONNX file, checked against the torch model on real images."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.metrics.model_facts import network_facts
from compress.stage import Kind, Stage, StageContext


class ExportOnnx(Stage):
    """Write `model.onnx` from a float or quantised model, and prove that ONNX Runtime computes the same."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.QUANTISED, Kind.MODEL)
    MAKES: ClassVar[Kind] = Kind.ONNX
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "brevitas", "onnx", "onnxruntime")

    CODE_VERSION: ClassVar[int] = 3  # 2: int32 biases; 3: rewrites for the runtime's kernels

    stage: Literal["export_onnx"] = "export_onnx"
    opset: int = Field(
        19, ge=19, le=20, description="ONNX opset; DeformConv came with 19, torch's exporter ends at 20."
    )
    deform: Literal["DeformConv", "GridSample"] = Field(
        "DeformConv", description="Operator for deformable convolutions; GridSample for ONNX Runtime before 1.25."
    )
    rewrite: bool = Field(
        True,
        description="Give integer layers the shapes that ONNX Runtime's kernels are fast with; same numbers.",
    )
    parity_images: int = Field(4, ge=1, description="Images on which ONNX Runtime and torch are compared.")
    parity_split: str = Field("val", description="Split the images come from.")
    parity_limit: float = Field(0.03, gt=0, description="Largest relative L2 error of each raw output.")

    def splits(self) -> tuple[str, ...]:
        """Return the split of the parity check."""
        return (self.parity_split,)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Export, compare, list what does not run in integers.

        Raises:
            StageError: the export failed, or an output differs by more than the limit.
        """
        from compress.export import check_parity, export_onnx, unfused_convolutions
        from compress.progress import say
        from compress.quantization.calibration import first_images
        from compress.weights import load_model

        detector = context.detector
        model, build = load_model(context.source.path, detector)
        path = context.folder / "model.onnx"
        facts = network_facts(context.source.facts)
        facts |= export_onnx(model, path, detector=detector, opset=self.opset, deform=self.deform, rewrite=self.rewrite)
        if facts["rewritten"]:
            say(f"{self.label}: {len(facts['rewritten'])} layers padded or rearranged for the runtime's kernels")
        images = first_images(detector, self.parity_split, self.parity_images, seed=context.seed)
        errors = check_parity(
            model, path, images, names=detector.output_names(), limit=self.parity_limit, label=self.label
        )
        worst = max(errors, key=lambda name: errors[name])
        say(f"{self.label}: {facts['onnx_bytes']:,} bytes; equals torch within {errors[worst]:.3%} ({worst})")
        facts["parity"] = {
            "relative_error": errors,
            "worst": errors[worst],
            "limit": self.parity_limit,
            "images": self.parity_images,
            "split": self.parity_split,
        }
        if build.quantisation is not None:
            reasons = detector.not_quantisable(model)
            unfused = unfused_convolutions(path, reasons)
            facts["unfused"] = [{"name": u.name, "reason": u.reason} for u in unfused]
            surprising = [u for u in unfused if u.layer not in reasons]
            say(f"{self.label}: {len(unfused)} convolutions run in float, {len(surprising)} of them against the plan")
            for one in surprising:
                say(f"  {one.name}: {one.reason}")
        return facts
