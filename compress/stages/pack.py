"""Stage `pack`: an ONNX file becomes a .krimp file that gives the same bytes back."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from compress import codec
from compress.errors import StageError
from compress.metrics.model_facts import network_facts
from compress.stage import Kind, Stage, StageContext


class Pack(Stage):
    """Pack the exported ONNX file: Huffman-coded weights, checked to come back byte for byte."""

    NEEDS: ClassVar[tuple[Kind, ...]] = (Kind.ONNX,)
    MAKES: ClassVar[Kind] = Kind.PACKED
    LIBRARIES: ClassVar[tuple[str, ...]] = ("huffman", "numpy")

    stage: Literal["pack"] = "pack"

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write `model.krimp`; return sizes and what the coder reached.

        Raises:
            StageError: the packed file does not give back the identical ONNX file.
            CodecError: the ONNX file is damaged or cannot be packed.
        """
        source = context.source.file("model.onnx")
        target = context.folder / "model.krimp"
        facts = codec.pack_file(source, target)
        original = source.read_bytes()
        if codec.unpack_bytes(target) != original:
            raise StageError(
                f"stage {self.label}: {target} does not unpack to {source}. This is a bug: please report it."
            )
        return network_facts(context.source.facts) | {
            "onnx_bytes": facts.original_bytes,
            "packed_bytes": facts.packed_bytes,
            "onnx_sha256": hashlib.sha256(original).hexdigest(),
            "coder": asdict(facts),
        }
