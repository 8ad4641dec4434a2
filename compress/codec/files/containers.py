"""Which kind of file it is, told by its content: networks that can be packed, and what people take for them."""

from __future__ import annotations

from compress.codec.files.tensor_places import OnnxWalker
from compress.codec.format.layout import MAGIC
from compress.errors import CodecError

ONNX, SAFETENSORS = 0, 1  # indices into `layout.CONTAINERS`
_MAX_HEADER_BYTES = 100_000_000  # of safetensors
_LOOKED_AT = 1 << 16  # bytes at either end of an archive, where names lie
_DECOMPRESS = "Decompress it first, and name what was in it"
_EXPORT = "Export the network to ONNX, or save its weights as safetensors"

# Where it stands, the bytes, what such a file is, and what to do.
_FOREIGN = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Run `git lfs pull` first"),
    (0, b"GGUF", "a GGUF file of llama.cpp", "Name the ONNX or safetensors file that it was made of"),
    (4, b"ORTM", "an .ort file of ONNX Runtime", "Name the ONNX file that it was made of"),
    (4, b"TFL3", "a TensorFlow Lite file", "Convert the network to ONNX, e.g. with tf2onnx"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", "Convert the network to ONNX, e.g. with tf2onnx"),
    (0, b"ftrt", "an engine of TensorRT", "Name the ONNX file that it was made of"),
    (0, b"\x93NUMPY", "an array of NumPy", "Save it as safetensors"),
    (0, b"\x1f\x8b", "compressed by gzip", _DECOMPRESS),
    (0, b"BZh", "compressed by bzip2", _DECOMPRESS),
    (0, b"\xfd7zXZ\0", "compressed by xz", _DECOMPRESS),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", _DECOMPRESS),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive of 7-Zip", _DECOMPRESS),
    (257, b"ustar", "an archive of tar", _DECOMPRESS),
    (0, b"\x89PNG\r\n", "a picture", "Name a network"),
    (0, b"\xff\xd8\xff", "a picture", "Name a network"),
    (0, b"\x7fELF", "a program", "Name a network"),
    (0, b"<!DOCTYPE", "a page of HTML, perhaps of a download that failed", "Download the file again"),
    (0, b"<!doctype", "a page of HTML, perhaps of a download that failed", "Download the file again"),
    (0, b"<html", "a page of HTML, perhaps of a download that failed", "Download the file again"),
    (0, b"<?xml", "XML, as OpenVINO describes networks", _EXPORT),
)  # fmt: skip


def container_of(data: memoryview, name: str) -> int:
    """Return what a file is, ONNX or SAFETENSORS; its name counts only where its content says nothing.

    Raises:
        CodecError: it is something else that is known; what is damaged beyond knowing passes as what its name says.
    """
    if looks_like_safetensors(data):
        return SAFETENSORS
    foreign = foreign_kind(data)
    if foreign is not None:
        what, cure = foreign
        raise CodecError(f"{name}: byte 0: is {what}. Expected an ONNX or safetensors file. {cure}.")
    if name.endswith(".safetensors") and not looks_like_onnx(data):
        return SAFETENSORS
    return ONNX


def looks_like_safetensors(data: memoryview) -> bool:
    """Return whether a file begins as a safetensors file does: the length of a header, and the header."""
    return len(data) > 8 and int.from_bytes(data[:8], "little") <= _MAX_HEADER_BYTES and data[8] == ord("{")


def looks_like_onnx(data: memoryview) -> bool:
    """Return whether the fields of a file are those of an ONNX model, a graph among them."""
    try:
        seen = {(number, wire) for number, wire, _, _ in OnnxWalker(data, "").fields(0, len(data))}
    except CodecError:
        return False
    return (7, 2) in seen and (1, 0) in seen


def foreign_kind(data: memoryview) -> tuple[str, str] | None:
    """Return what a file is if it is no network that can be packed but something known, and what to do, else None."""
    if bytes(data[: len(MAGIC)]) == MAGIC:
        return "a .krimp file already", "Unpack it, or name an ONNX file"
    for at, magic, what, cure in _FOREIGN:
        if bytes(data[at : at + len(magic)]) == magic:
            return what, cure
    if bytes(data[:4]) == b"PK\x03\x04":
        names = bytes(data[:_LOOKED_AT]) + bytes(data[-_LOOKED_AT:])
        if b"data.pkl" in names or b"constants.pkl" in names:
            return "a checkpoint of PyTorch (.pt, .pth)", f"{_EXPORT} (`krimp import` does it for some)"
        if b".npy" in names:
            return "an archive of NumPy arrays (.npz)", "Save them as safetensors"
        return "a zip archive", _DECOMPRESS
    if bytes(data[:2]) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle, as old PyTorch writes checkpoints", f"{_EXPORT} (`krimp import` does it for some)"
    return None
