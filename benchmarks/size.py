"""Where the bytes of a network are: by part, as float32, as stored in the ONNX file, and packed.

    python benchmarks/size.py model.onnx other.krimp [--json record.json]

Compares the packed file with zstd -19 and xz -9 of the whole ONNX file, and the coded weights with
their order-0 entropy. Parts are found in the names of the initializers or of the nodes that read them.
"""

from __future__ import annotations

import argparse
import lzma
import platform
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
import zstandard
from google.protobuf.message import DecodeError

from benchmarks.record_file import refuse_existing, write_record
from compress import codec
from compress.errors import CodecError, CompressError
from compress.names_file import names_beside
from compress.onnx_graph.short_names import restore_names

PARTS = {
    "backbone": ("backbone", "features", "stem", "layer"),
    "neck": ("neck", "fpn"),
    "head": ("head", "cls", "reg", "tower"),
}
GRAPH = "graph, tables, tensors < 128 bytes"
REPEATED_BIAS = re.compile(r"\.bias_\d+$")  # of a layer that runs on several levels: one float bias, several int32 ones


@dataclass
class Part:
    """Bytes of one part of a network.

    Attributes:
        elements: weights and biases; scales and zero points are not counted.
        float32_bytes: 4 for each of these elements.
        onnx_bytes: as the ONNX file stores them, scales and zero points included.
        packed_bytes: as the .krimp file stores them.
        entropy_bytes: order-0 entropy of weights of at most 8 bits, each tensor by itself.
        weight_packed_bytes: what the .krimp file spends on those.
    """

    elements: int = 0
    float32_bytes: int = 0
    onnx_bytes: int = 0
    packed_bytes: int = 0
    entropy_bytes: float = 0.0
    weight_packed_bytes: int = 0


@dataclass
class Size:
    """Bytes of one file, in all and by part."""

    file: str
    onnx_bytes: int
    packed_bytes: int
    zstd19_bytes: int
    xz9_bytes: int
    float32_bytes: int
    compression_ratio: float
    parts: dict[str, Part] = field(default_factory=dict)


def part_of(name: str) -> str | None:
    """Return the part that a name belongs to, or None if it does not say.

    The leftmost word decides: 'backbone.layer1.cls' is backbone.
    """
    for word in name.lower().replace("/", ".").split("."):
        for part, marks in PARTS.items():
            if any(word.startswith(mark) or word.endswith(mark) for mark in marks):
                return part
    return None


def parts_by_initializer(model: onnx.ModelProto) -> tuple[dict[str, str], set[str]]:
    """Return initializer -> part, and the names of scales and zero points."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    quantizers = set()
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            quantizers.update(node.input[1:])
    found = {}
    for tensor in model.graph.initializer:
        names, part = [tensor.name], part_of(tensor.name)
        for _ in range(4):  # an initializer, its DequantizeLinear, perhaps a cast, the layer
            if part or not names:
                break
            nodes = [node for name in names for node in readers.get(name, [])]
            part = next((p for node in nodes for text in (node.name, *node.output) if (p := part_of(text))), None)
            names = [name for node in nodes for name in node.output]
        found[tensor.name] = part or "other"
    return found, quantizers


def measure(path: Path) -> Size:
    """Return the sizes of an .onnx or .krimp file.

    Raises:
        CodecError: the file is damaged or not such a file.
    """
    data = codec.load(path)
    with tempfile.TemporaryDirectory() as folder:
        packed = path
        if not codec.is_packed(path):
            packed = Path(folder) / "model.krimp"
            codec.pack_file(path, packed)
        names = names_beside(path)
        coded = {names.get(fact.name, fact.name): fact for fact in codec.inspect_file(packed)}
        packed_bytes = packed.stat().st_size
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CodecError(f"{path}: holds no ONNX network ({error}). Parts are counted in ONNX files only.") from error
    restore_names(model.graph, names)
    part_by_name, quantizers = parts_by_initializer(model)
    parts = {name: Part() for name in (*PARTS, "other", GRAPH)}
    for tensor in model.graph.initializer:
        elements = 1
        for size in tensor.dims:
            elements *= size
        part = parts[part_by_name[tensor.name]]
        if tensor.name not in quantizers and not REPEATED_BIAS.search(tensor.name):
            part.elements += elements
            part.float32_bytes += 4 * elements
        fact = coded.get(tensor.name)
        if fact is None:
            continue
        part.onnx_bytes += fact.original_bytes
        part.packed_bytes += fact.packed_bytes
        if fact.bit_width <= 8:
            part.entropy_bytes += fact.entropy_bits_per_weight * fact.elements / 8
            part.weight_packed_bytes += fact.packed_bytes
    parts[GRAPH].onnx_bytes = len(data) - sum(part.onnx_bytes for part in parts.values())
    parts[GRAPH].packed_bytes = packed_bytes - sum(part.packed_bytes for part in parts.values())
    return Size(
        file=path.name,
        onnx_bytes=len(data),
        packed_bytes=packed_bytes,
        zstd19_bytes=len(zstandard.ZstdCompressor(level=19).compress(data)),
        xz9_bytes=len(lzma.compress(data, preset=9)),
        float32_bytes=sum(part.float32_bytes for part in parts.values()),
        compression_ratio=sum(part.float32_bytes for part in parts.values()) / packed_bytes,
        parts={name: part for name, part in parts.items() if part.onnx_bytes or part.elements},
    )


def table(size: Size) -> str:
    """Return the sizes as text."""
    rows = [
        f"{size.file}",
        f"{'part':36} {'weights':>11} {'float32':>12} {'onnx':>12} {'packed':>11} {'over entropy':>12}",
    ]
    for name, part in size.parts.items():
        over = f"{part.weight_packed_bytes / part.entropy_bytes - 1:12.2%}" if part.entropy_bytes else f"{'':12}"
        rows.append(
            f"{name:36} {part.elements:11,} {part.float32_bytes:12,} {part.onnx_bytes:12,}"
            f" {part.packed_bytes:11,} {over}"
        )
    rows.append(f"{'all':36} {'':11} {size.float32_bytes:12,} {size.onnx_bytes:12,} {size.packed_bytes:11,}")
    for label, value in (("zstd -19 of the ONNX file", size.zstd19_bytes), ("xz -9 of the ONNX file", size.xz9_bytes)):
        rows.append(
            f"{label:36} {'':11} {'':12} {'':12} {value:11,} ({value / size.packed_bytes - 1:+.1%} against .krimp)"
        )
    rows.append(f"compression_ratio {size.compression_ratio:.2f} (float32 weights / .krimp)")
    return "\n".join(rows)


def main() -> int:
    """Print a table for each file; with --json, write a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help=".onnx or .krimp files")
    parser.add_argument("--json", type=Path, help="write a record here")
    args = parser.parse_args()
    try:
        refuse_existing(args.json)
        sizes = [measure(path) for path in args.files]
        print("\n\n".join(table(size) for size in sizes))
        libraries = {name: version(name) for name in ("numpy", "huffman", "zstandard", "onnx")}
        record = {"python": platform.python_version(), "versions": libraries, "files": [asdict(size) for size in sizes]}
        write_record(args.json, record)
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
