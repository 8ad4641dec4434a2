"""Stage `pack`: an ONNX file becomes a .krimp file that gives the same bytes back."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.kind import Kind
from compress.stage import Stage


class Pack(Stage):
    """Pack the exported ONNX file: Huffman-coded weights, checked to come back byte for byte."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    MAKES: ClassVar[Kind] = Kind.PACKED
    LIBRARIES: ClassVar[tuple[str, ...]] = ("huffman", "numpy")
    ACTION: ClassVar[str] = "compress.actions.pack"
    # 2: version 2 of the format; 3: runs and lists of rows in it; 4: all but one value; 5: short scales
    CODE_VERSION: ClassVar[int] = 5

    stage: Literal["pack"] = "pack"
