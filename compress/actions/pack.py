"""Action of stage `pack`: an ONNX file becomes a .krimp file that gives the same bytes back."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from compress import codec
from compress.actions.model_facts import network_facts
from compress.errors import StageError
from compress.names_file import names_beside, write_names
from compress.stage import StageContext
from compress.stages.pack import Pack


def run(stage: Pack, context: StageContext) -> dict[str, Any]:
    """Write `model.krimp`; return sizes and what the coder reached.

    Raises:
        StageError: the packed file does not give back the identical ONNX file.
        CodecError: the ONNX file is damaged or cannot be packed.
    """
    source = context.source.file("model.onnx")
    target = context.folder / "model.krimp"
    facts = codec.pack_file(source, target)
    if names := names_beside(source):
        write_names(context.folder, names)
    original = source.read_bytes()
    if codec.unpack_bytes(target) != original:
        raise StageError(f"stage {stage.label}: {target} does not unpack to {source}. This is a bug: please report it.")
    return network_facts(context.source.facts) | {
        "onnx_bytes": facts.original_bytes,
        "packed_bytes": facts.packed_bytes,
        "onnx_sha256": hashlib.sha256(original).hexdigest(),
        "coder": asdict(facts),
    }
