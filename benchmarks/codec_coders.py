"""The coders that benchmarks/codec.py compares, behind one interface; each decodes what it encoded.

All of them get the same tensors: int8 arrays of shape (output channels, rest). A coder whose package is missing or does
not load stays in the list with the reason, so that a table shows the gap.
"""

from __future__ import annotations

import importlib
import json
import lzma
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress import codec
from compress.codec.encoding.table_choice import Tables
from compress.codec.encoding.tensor_encoder import encode_tensor
from compress.codec.files.network_source import channel_values, open_source
from compress.codec.kernels.choice import choose

Tensors = Sequence[np.ndarray]


@dataclass(frozen=True)
class Coder:
    """One way to code a list of integer tensors.

    Attributes:
        name: for tables.
        encode: tensors -> what the coder makes of them; this is timed.
        num_bytes: what `encode` gave -> its bytes.
        decode: what `encode` gave, tensors for their shapes -> int8 arrays or bytes; this is timed.
        tables_counted: whether num_bytes holds all that a decoder needs besides the shapes.
        slow: a third of the rounds in timings.
        few_weights: fewer weights in timings.
        compared_in_sizes: False for pure Python, whose output is decoded and compared in the timings alone.
        missing: '' or why it cannot be used here.
        encode_only: the part of `encode` that is coding, where that does more (writing, hashing, comparing); it gets
            what `encode` gave and is timed instead.
    """

    name: str
    encode: Callable[[Tensors], Any]
    num_bytes: Callable[[Any], int]
    decode: Callable[[Any, Tensors], Any]
    tables_counted: bool = True
    slow: bool = False
    few_weights: bool = False
    compared_in_sizes: bool = True
    missing: str = ""
    encode_only: Callable[[Any], Any] | None = None


def all_coders() -> list[Coder]:
    """Return every coder, the available and the missing ones, Krimp first."""
    rivals = {
        "zstd -1": lambda: _zstd(1),
        "zstd -3": lambda: _zstd(3),
        "zstd -19": lambda: _zstd(19),
        "xz -9": _xz,
        "ZipNN": _zipnn,
        "NNCodec": lambda: _nncodec(optimize=False),
        "NNCodec optimized": lambda: _nncodec(optimize=True),
        "constriction ANS": _constriction,
        "dahuffman": _dahuffman,
    }
    return [krimp("numba"), krimp("numpy"), *(_or_missing(name, make) for name, make in rivals.items())]


def krimp(kernels: str) -> Coder:
    """Return Krimp with some kernels; its bytes are the whole file but the skeleton, tables and checksums included."""
    return Coder(
        "Krimp" if kernels == "numba" else "Krimp, NumPy alone",
        lambda tensors: _PackedTensors(tensors, kernels),
        lambda packed: packed.num_bytes,
        _unpack_krimp,
        slow=kernels == "numpy",
        encode_only=_code_only,
    )


class _PackedTensors:
    """Tensors in a .krimp file of their own, which goes away with the object."""

    def __init__(self, tensors: Tensors, kernels: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.source = Path(self._folder.name) / "weights.safetensors"
        self.source.write_bytes(safetensors_bytes({f"w{i}": tensor for i, tensor in enumerate(tensors)}))
        self.path = self.source.with_suffix(".krimp")
        self.kernels = kernels
        facts = codec.pack_file(self.source, self.path, kernels=kernels)
        self.num_bytes = facts.packed_bytes - facts.skeleton_packed_bytes


def _code_only(packed: _PackedTensors) -> int:
    """Code the tensors as `codec.pack_file` does, choices and checksums included, and drop the result."""
    source, tables = open_source(packed.source), Tables()
    kernels, size = choose(packed.kernels, source.num_bytes), 0
    for span in source.spans:
        data = source.array(span.start, span.num_bytes)
        size += len(encode_tensor(data, span.kind, tables, kernels, channel=channel_values(span)).payload)
    return size


def _unpack_krimp(packed: _PackedTensors, tensors: Tensors) -> list[np.ndarray]:
    with codec.PackedFile(packed.path, kernels=packed.kernels) as file:
        outs = [np.empty(tensor.record.num_bytes, dtype=np.uint8) for tensor in file.tensors]
        file.decode_many(file.tensors, outs)
    if len(outs) != len(tensors):  # tensors under 128 bytes stay in the skeleton
        raise ValueError(f"{len(outs)} of {len(tensors)} tensors are coded; compare tensors of 128 bytes and more.")
    return outs


def safetensors_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """Return a safetensors file of int8 tensors."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "I8", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def same_values(decoded: Any, tensors: Tensors) -> bool:
    """Return True if a coder gave back the tensors' values."""
    if not isinstance(decoded, list):
        return bytes(decoded) == _joined(tensors)
    pairs = zip(decoded, tensors, strict=True)
    return all(np.array_equal(np.asarray(a, np.int32).astype(np.int8).reshape(-1), b.reshape(-1)) for a, b in pairs)


def entropy_bytes(tensors: Tensors) -> float:
    """Return the order-0 entropy of the tensors, each with its own distribution, in bytes.

    Source:
        Shannon 1948: -sum n log2(n / N).
    """
    total = 0.0
    for tensor in tensors:
        counts = np.bincount(tensor.reshape(-1).astype(np.int64) + 128)
        counts = counts[counts > 0].astype(np.float64)
        total += counts.sum() * np.log2(counts.sum()) - (counts * np.log2(counts)).sum()
    return float(total) / 8


def whole_file_coders() -> list[Coder]:
    """Return the general compressors with one more interface: a whole file as a single uint8 array."""
    return [coder for coder in all_coders() if coder.name in ("zstd -3", "zstd -19", "xz -9", "ZipNN")]


def _or_missing(name: str, make: Callable[[], Coder]) -> Coder:
    try:
        return make()
    except Exception as error:  # noqa: BLE001  any failure to load a stranger's package is a line in the table
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        return Coder(name, _absent, _absent, _absent, missing=f"{reason} (install with `bash scripts/setup_codec.sh`)")


def _absent(*_: Any) -> Any:
    raise RuntimeError("this coder is not available")


def _joined(tensors: Tensors) -> bytes:
    return b"".join(tensor.tobytes() for tensor in tensors)


def _zstd(level: int) -> Coder:
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    return Coder(
        f"zstd -{level}",
        lambda tensors: compressor.compress(_joined(tensors)),
        len,
        lambda data, _: decompressor.decompress(data),
        slow=level > 3,
        few_weights=level > 3,
    )


def _xz() -> Coder:
    return Coder(
        "xz -9",
        lambda tensors: lzma.compress(_joined(tensors), preset=9),
        len,
        lambda data, _: lzma.decompress(data),
        slow=True,
        few_weights=True,
    )


_ZIPNN_TYPES = {"float8_e4m3fn": 1, "float16": 2, "bfloat16": 2, "float32": 4}  # -> bytes of an element


def _zipnn() -> Coder:
    """Return ZipNN with the element type, of those that it takes, that gives the fewest bytes; one thread.

    It has no type for integers of 8 bits. It may change its input in place, so it gets a copy, and it writes past the
    end of an input that is no whole number of elements, so it gets up to three zeros more.
    """
    from zipnn import ZipNN

    def compress(data: bytes, data_type: str) -> bytes:
        whole = bytearray(data) + bytes(-len(data) % _ZIPNN_TYPES[data_type])
        return bytes(ZipNN(method="HUFFMAN", bytearray_dtype=data_type, threads=1).compress(whole))

    best: dict[int, str] = {}  # bytes of input -> type: the choice is made once, outside the timed rounds

    def encode(tensors: Tensors) -> bytes:
        data = _joined(tensors)
        if len(data) not in best:
            best[len(data)] = min(_ZIPNN_TYPES, key=lambda data_type: len(compress(data, data_type)))
        return compress(data, best[len(data)])

    def decode(data: bytes, tensors: Tensors) -> Any:
        return ZipNN(method="HUFFMAN", threads=1).decompress(data)[: sum(tensor.nbytes for tensor in tensors)]

    return Coder("ZipNN", encode, len, decode)


def _nncodec(*, optimize: bool) -> Coder:
    """Return NNCodec's own arithmetic coder (DeepCABAC, ISO/IEC 15938-17) on the integers, without its file headers.

    Uniform quantization indices (no dependent quantization, which would change them), eleven greater-than flags as in
    its default; `optimize` tries its context parameters per tensor, which it calls param_opt.
    """
    engine = importlib.import_module("nncodec.extensions.deepCABAC")
    flags, off = 11, (engine.HdspMode.AlwaysOff, np.zeros(2, dtype=np.int8))

    def encode(tensors: Tensors) -> list[np.ndarray]:
        streams = []
        for tensor in tensors:
            values = np.ascontiguousarray(tensor, dtype=np.int32)
            encoder = engine.Encoder()
            encoder.initCtxModels(flags, int(optimize))
            empty_rows = (~values.reshape(len(values), -1).any(axis=1)).astype(np.int32)
            encoder.encodeLayer(values, 0, 0, 1, 0, int(empty_rows.any()), empty_rows, *off, 0, 0)
            streams.append(encoder.finish())
        return streams

    def decode(streams: list[np.ndarray], tensors: Tensors) -> list[np.ndarray]:
        found = []
        for stream, tensor in zip(streams, tensors, strict=True):
            values = np.zeros(tensor.shape, dtype=np.int32)
            decoder = engine.Decoder()
            decoder.setStream(stream)
            decoder.initCtxModels(flags)
            decoder.decodeLayer(values, 0, 0, 1, 0, *off, 0, 0)
            decoder.finish()
            found.append(values)
        return found

    name = "NNCodec optimized" if optimize else "NNCodec"
    return Coder(name, encode, lambda streams: sum(map(len, streams)), decode, slow=True, few_weights=True)


def _constriction() -> Coder:
    """Return static ANS with each tensor's exact distribution, which is not counted."""
    import constriction

    ans = constriction.stream.stack.AnsCoder
    categorical = constriction.stream.model.Categorical

    def encode(tensors: Tensors) -> list[tuple[np.ndarray, int, Any]]:
        coded = []
        for tensor in tensors:
            values = tensor.reshape(-1).astype(np.int32)
            low = int(values.min())
            counts = np.bincount(values - low).astype(np.float64)
            if len(counts) == 1:  # it takes no alphabet of one symbol
                coded.append((np.empty(0, dtype=np.uint32), low, None))
                continue
            model = categorical(counts / counts.sum(), perfect=False)
            coder = ans()
            coder.encode_reverse(values - low, model)
            coded.append((coder.get_compressed(), low, model))
        return coded

    def decode(coded: list[tuple[np.ndarray, int, Any]], tensors: Tensors) -> list[np.ndarray]:
        return [
            ans(words).decode(model, tensor.size) + low if model else np.full(tensor.size, low)
            for (words, low, model), tensor in zip(coded, tensors, strict=True)
        ]

    def num_bytes(coded: list[tuple[np.ndarray, int, Any]]) -> int:
        return sum(words.nbytes for words, _, _ in coded)

    return Coder("constriction ANS", encode, num_bytes, decode, tables_counted=False)


def _dahuffman() -> Coder:
    """Return plain Huffman codes in pure Python, a table for each tensor, which is not counted."""
    from dahuffman import HuffmanCodec

    def encode(tensors: Tensors) -> list[tuple[Any, bytes]]:
        coded = []
        for tensor in tensors:
            data = tensor.tobytes()
            table = HuffmanCodec.from_data(data)
            coded.append((table, table.encode(data)))
        return coded

    def decode(coded: list[tuple[Any, bytes]], _: Tensors) -> bytes:
        return b"".join(bytes(table.decode(data)) for table, data in coded)

    def num_bytes(coded: list[tuple[Any, bytes]]) -> int:
        return sum(len(data) for _, data in coded)

    return Coder(
        "dahuffman",
        encode,
        num_bytes,
        decode,
        tables_counted=False,
        slow=True,
        few_weights=True,
        compared_in_sizes=False,
    )
