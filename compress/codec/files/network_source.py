"""The file that is packed, together with the files that keep weights of it (ONNX external data)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from compress.codec.files.containers import SAFETENSORS, container_of
from compress.codec.files.network_folder import INDEX_SUFFIX, find_network, shards_of
from compress.codec.files.tensor_places import ExternalTensor, Span, find_tensors, in_order
from compress.codec.format.file_names import refused_name
from compress.codec.format.layout import KINDS, MAX_FILES, MAX_ORIGINAL_BYTES, SideFile
from compress.codec.format.sections import Shrinker
from compress.codec.mapped_memory import forget, open_map
from compress.errors import CodecError, printable

_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True)
class Source:
    """Files as if they were one, the model first.

    Attributes:
        files: bytes of each, mapped.
        side_files: names and sizes of all but the first.
        spans: the tensors in all of them, in the order of their bytes.
        container: index into `layout.CONTAINERS`.
        paths: where each file lies.
        shrink: packs sections of the file that is made of it.
    """

    files: tuple[memoryview, ...]
    side_files: tuple[SideFile, ...]
    spans: tuple[Span, ...]
    container: int
    paths: tuple[Path, ...]
    shrink: Shrinker = field(default_factory=Shrinker, compare=False, repr=False)

    @property
    def num_bytes(self) -> int:
        """Return the size of all files together."""
        return sum(len(file) for file in self.files)

    def array(self, start: int, num_bytes: int) -> np.ndarray:
        """Return bytes that lie in one file, (num_bytes,), uint8, not copied."""
        for file in self.files:
            if start < len(file):
                return np.frombuffer(file[start : start + num_bytes], dtype=np.uint8)
            start -= len(file)
        return np.empty(0, dtype=np.uint8)

    def copy(self, start: int, stop: int) -> bytes:
        """Return bytes that may lie in several files."""
        parts = []
        for file in self.files:
            if start < len(file) and stop > 0:
                parts.append(bytes(file[max(start, 0) : stop]))
            start, stop = start - len(file), stop - len(file)
        return b"".join(parts)

    def sha256(self) -> bytes:
        """Return the hash of all files behind each other."""
        digest = hashlib.sha256()
        for file in self.files:
            for start in range(0, len(file), _BLOCK):
                block = np.frombuffer(file[start : start + _BLOCK], dtype=np.uint8)
                digest.update(block.data)
                forget(block)
        return digest.digest()


def open_source(path: Path | str) -> Source:
    """Open a network and the files that belong to it.

    Args:
        path: ONNX or safetensors, told by its content; the index of sharded safetensors; or a folder with one of them.

    Raises:
        CodecError: a file is missing, truncated, no network, too large, or not inside the network's folder.
    """
    path = find_network(Path(path)) if Path(path).is_dir() else Path(path)
    source = _open_shards(path) if path.name.endswith(INDEX_SUFFIX) else _open_model(path)
    files, side_files = source.files, source.side_files
    if source.num_bytes > MAX_ORIGINAL_BYTES or len(side_files) > MAX_FILES:
        raise CodecError(
            f"{path}: byte 0: {source.num_bytes} bytes in {len(files)} files; expected at most"
            f" {MAX_ORIGINAL_BYTES} bytes in {MAX_FILES + 1}."
        )
    return source


def _open_model(path: Path) -> Source:
    data = open_map(path)
    container = container_of(data, str(path))
    spans, external = find_tensors(data, container, str(path))
    files, side_files = [data], []
    for name, tensors in sorted(_by_file(path, external).items()):
        side = open_map(path.parent / name)
        spans += side_spans(str(path), side, tensors, sum(map(len, files)))
        files.append(side)
        side_files.append(SideFile(name, len(side)))
    paths = (path, *(path.parent / file.name for file in side_files))
    return Source(tuple(files), tuple(side_files), tuple(spans), container, paths)


def _open_shards(index: Path) -> Source:
    """Open sharded safetensors: the first shard is the network, the others and the index follow it."""
    shards = shards_of(index)
    for name in shards:
        _refuse_name(index, name, f"byte 0: shard {printable(name)!r}")
    files = [open_map(index.parent / name) for name in (*shards, index.name)]
    spans: list[Span] = []
    at = 0
    for name, data in zip(shards, files, strict=False):
        found, _ = find_tensors(data, SAFETENSORS, str(index.parent / name))
        spans += [replace(span, start=span.start + at) for span in found]
        at += len(data)
    names = (*shards[1:], index.name)
    side_files = tuple(SideFile(name, len(data)) for name, data in zip(names, files[1:], strict=True))
    paths = tuple(index.parent / name for name in (*shards, index.name))
    return Source(tuple(files), side_files, tuple(spans), SAFETENSORS, paths)


def _by_file(path: Path, external: list[ExternalTensor]) -> dict[str, list[ExternalTensor]]:
    found: dict[str, list[ExternalTensor]] = {}
    for tensor in external:
        found.setdefault(_name_inside(path, tensor), []).append(tensor)
    return found


def normal_name(location: str) -> str:
    """Return a location in its plain form: './weights.bin' is 'weights.bin'."""
    return str(PurePosixPath(location))


def _name_inside(path: Path, tensor: ExternalTensor) -> str:
    """Return the path of a side file relative to the model's folder; refuse one that is not in there."""
    name = normal_name(tensor.location)
    _refuse_name(path, name, f"byte {tensor.at}: tensor {tensor.name!r} lies in the file {tensor.location!r}, which")
    return name


def _refuse_name(path: Path, name: str, what: str) -> None:
    """Refuse a side file with a name that is never written, or that leads out of the model's folder.

    Links may lead to where the model's own link leads: a cache of Hugging Face is a folder of links into another.

    Raises:
        CodecError: it is such a one; `what` begins the reason.
    """
    reason = refused_name(name)
    if reason is None:
        target = (path.parent / name).resolve()
        folders = {path.parent.resolve(), path.resolve().parent}
        if not folders.intersection(target.parents) or target == path.resolve():
            reason = "leads out of the folder of the model"
    if reason is not None:
        raise CodecError(f"{path}: {what} {reason}; expected a file beside the model or below.")


def side_spans(path: str, side: memoryview, tensors: list[ExternalTensor], base: int) -> list[Span]:
    """Return the tensors of a side file that begins `base` bytes after the model, none overlapping.

    Raises:
        CodecError: the file is too short.
    """
    found: dict[tuple[int, int], Span] = {}
    for tensor in tensors:
        size = len(side) - tensor.offset if tensor.num_bytes is None else tensor.num_bytes
        if size < 0 or tensor.offset + size > len(side):
            raise CodecError(
                f"{path}: byte {tensor.at}: tensor {tensor.name!r} ends at byte {tensor.offset + max(size, 0)} of"
                f" {tensor.location!r}; the file has {len(side)}. It is truncated."
            )
        # Tensors may share their bytes; which of equal places comes first does not matter.
        span = Span(base + tensor.offset, size, tensor.kind, tensor.name, tensor.dims, tensor.data_type)
        found.setdefault((tensor.offset, size), span)
    return in_order(_without_overlap(list(found.values())), path)


def _without_overlap(spans: list[Span]) -> list[Span]:
    """Leave out tensors that share some of the bytes of an earlier one: they come back with the rest."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.num_bytes)):
        if not kept or kept[-1].start + kept[-1].num_bytes <= span.start:
            kept.append(span)
    return kept


def channel_values(span: Span) -> int:
    """Return the values that share an output channel, 0 if the tensor has no such structure.

    Convolution kernels and most matrices keep the channel in their first dimension.
    """
    kind = KINDS[span.kind]
    if kind.planes > 1 or len(span.dims) < 2 or span.dims[0] < 2:
        return 0
    count = span.num_bytes * (8 // kind.value_bits)
    product = 1
    for size in span.dims[1:]:
        product *= size
    return product if product and span.dims[0] * product == count else 0
