"""Stage export_onnx: one ONNX file, checked against the torch model on real images."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.kind import Kind
from compress.stage import Stage


class ExportOnnx(Stage):
    """Write `model.onnx` from a float or quantized model, and prove that ONNX Runtime computes the same."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.QUANTIZED, Kind.MODEL)
    MAKES: ClassVar[Kind] = Kind.ONNX
    LIBRARIES: ClassVar[tuple[str, ...]] = (
        "torch", "torchvision", "brevitas", "onnx", "onnx-ir", "onnxscript", "onnxruntime",
    )  # fmt: skip

    # 2: int32 biases; 3: rewrites for the runtime's kernels; 4: torch.export; 5: lean files
    CODE_VERSION: ClassVar[int] = 5
    ACTION: ClassVar[str] = "compress.actions.export_onnx"

    stage: Literal["export_onnx"] = "export_onnx"
    opset: int = Field(19, ge=19, le=20, description="ONNX opset; DeformConv came with 19.")
    deform: Literal["DeformConv", "GridSample"] = Field(
        "DeformConv", description="Operator for deformable convolutions; GridSample for ONNX Runtime before 1.25."
    )
    rewrite: bool = Field(
        True,
        description="Give integer layers the shapes that ONNX Runtime's kernels are fast with; same numbers.",
    )
    names: Literal["auto", "full", "short"] = Field(
        "auto",
        description="Names in the file: 'full' are those of layers; 'short' ones pack smaller, and names.json beside "
        "the file tells the layers; 'auto': short in a quantized network, as round_weights counts on.",
    )
    parity_images: int = Field(4, ge=1, description="Images on which ONNX Runtime and torch are compared.")
    parity_split: str = Field("val", description="Split the images come from.")
    parity_limit: float = Field(0.03, gt=0, description="Largest relative L2 error of each raw output.")

    def splits(self) -> tuple[str, ...]:
        """Return the split of the parity check."""
        return (self.parity_split,)

    def form(self) -> dict[str, Any]:
        """Return the fields that shape the file, as `export_onnx` takes them."""
        return {name: getattr(self, name) for name in ("opset", "deform", "rewrite", "names")}
