"""Files of `torch.save`, of both layouts, as data: no class of theirs is imported, built or called.

The newer layout is a zip archive: `NAME/data.pkl` refers to storages `NAME/data/KEY`, which are stored as they are. The
older one is a row of pickles, behind which the storages follow. A tensor is a `Stored` until somebody wants it, so the
state of an optimizer is never read.

Source:
    PyTorch 2.10, torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py (`_rebuild_tensor_v2`).
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from detectors.weights.pickled import Call, Name, Persistent, PickleError, load_pickle

ZIP_SIGNATURE = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
_MAX_PICKLE_BYTES = 1 << 30
_MAX_LINE_BYTES = 1 << 20
_MAX_DIMENSIONS = 64
_DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_NUMPY_NAMES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


@dataclass(frozen=True)
class Storage:
    """A run of numbers outside the pickle.

    Attributes:
        key: its name in the file.
        dtype: of its numbers; None: bytes, and the tensor knows.
        count: how many.
    """

    key: str
    dtype: torch.dtype | None
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor that was not read yet.

    Attributes:
        storage: where its numbers lie.
        dtype: of them.
        offset: of the first, in numbers.
        size: of the tensor.
        stride: in numbers.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class TorchFile(AbstractContextManager["TorchFile"]):
    """An open file of `torch.save`.

    Attributes:
        content: what it holds: containers, numbers, text, `Stored` and inert `Call`.
    """

    def __init__(self, path: Path) -> None:
        """Read all but the storages.

        Raises:
            ValueError, OSError, zipfile.BadZipFile and others: the file is damaged or of another kind.
        """
        self._file: IO[bytes] = path.open("rb")
        self._left = path.stat().st_size  # bytes of storages that may still be read: no file holds more than its size
        self._read: dict[str, bytearray] = {}
        try:
            zipped = self._file.read(4) == ZIP_SIGNATURE
            self._file.seek(0)
            self.content, self._bytes_of, self._swap = (_open_zip if zipped else _open_pickles)(self._file)
        except BaseException:
            self._file.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def tensor(self, stored: Stored) -> Tensor:
        """Return a tensor.

        Raises:
            ValueError: it lies outside its storage, or is larger than it.
        """
        size, stride = stored.size, stored.stride
        count = math.prod(size)
        last = stored.offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) + 1
        width = stored.dtype.itemsize
        bytes_in_all = stored.storage.count * (stored.storage.dtype.itemsize if stored.storage.dtype else 1)
        if count and (last * width > bytes_in_all or count * width > bytes_in_all):
            raise PickleError(f"a tensor of {count} numbers in a storage of {bytes_in_all} bytes")
        if not count:
            return torch.empty([min(side, 1 << 20) for side in size], dtype=stored.dtype)
        data = self._bytes(stored.storage, bytes_in_all, width)
        flat = torch.frombuffer(data, dtype=stored.dtype)
        return flat.as_strided(size, stride, stored.offset)

    def _bytes(self, storage: Storage, size: int, width: int) -> bytearray:
        if storage.key not in self._read:
            self._left -= size
            if self._left < 0:
                raise PickleError("its storages together are larger than the file")
            data = bytearray(self._bytes_of(storage, size))
            if len(data) != size:
                raise PickleError(f"storage {storage.key[:40]!r} has {len(data)} bytes, expected {size}")
            if self._swap and width > 1:
                data = bytearray(np.frombuffer(data, f"u{width}").byteswap().tobytes())
            self._read[storage.key] = data
        return self._read[storage.key]


# (what the file holds, bytes of a storage, whether they are of the other byte order)
_Opened = tuple[Any, Callable[[Storage, int], bytes], bool]


def _open_zip(file: IO[bytes]) -> _Opened:
    archive = zipfile.ZipFile(file)
    names = {info.filename: info for info in archive.infolist()}
    pickles = sorted((name for name in names if name.split("/")[1:] == ["data.pkl"]), key=len)
    if not pickles:
        raise PickleError("a zip archive without data.pkl, so torch did not save it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise PickleError("a TorchScript program, expected weights: save its state_dict()")

    def record(name: str, limit: int) -> bytes:
        info = names.get(name)
        if info is None:
            raise PickleError(f"no record {name[:60]!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
            raise PickleError(f"record {name[:60]!r} is compressed or of {info.file_size} bytes, {limit} at most")
        return archive.read(info)

    content = load_pickle(_Bounded(io.BytesIO(record(pickles[0], _MAX_PICKLE_BYTES))), _recognized)
    order = record(f"{root}byteorder", 16) if f"{root}byteorder" in names else sys.byteorder.encode()
    return content, lambda storage, size: record(f"{root}data/{storage.key}", size), order != sys.byteorder.encode()


def _open_pickles(file: IO[bytes]) -> _Opened:
    bounded = _Bounded(file)
    first = load_pickle(bounded, _recognized)
    if first != _MAGIC:  # a plain pickle, with arrays of NumPy at best
        return first, _no_storage, False
    protocol, system = load_pickle(bounded), load_pickle(bounded)
    if protocol != 1001 or not isinstance(system, dict):
        raise PickleError(f"protocol {str(protocol)[:20]}, expected 1001")
    seen: dict[str, Storage] = {}
    content = load_pickle(bounded, lambda name, args: _recognized(name, args, seen))
    keys = load_pickle(bounded)
    places: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        count = struct.unpack("<q", file.read(8))[0]
        storage = seen.get(key)
        if storage is None or storage.count != count:
            raise PickleError(f"storage {str(key)[:40]!r} is not the one that its tensors name")
        places[key] = file.tell()
        file.seek(count * (storage.dtype.itemsize if storage.dtype else 1), io.SEEK_CUR)

    def bytes_of(storage: Storage, size: int) -> bytes:
        if storage.key not in places:
            raise PickleError(f"no storage {storage.key[:40]!r}")
        file.seek(places[storage.key])
        return file.read(size)

    return content, bytes_of, system.get("little_endian", True) is not (sys.byteorder == "little")


def _no_storage(storage: Storage, size: int) -> bytes:
    raise PickleError("a pickle without storages")


class _Bounded:
    """A file whose reads ask for no more than there is: the length before a text is the file's own word."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        place = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        file.seek(place)

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._end - self._file.tell())))

    def readline(self) -> bytes:
        return self._file.readline(_MAX_LINE_BYTES)

    def tell(self) -> int:
        return self._file.tell()


# ---- calls that are understood -------------------------------------------------------------------------------------


def _recognized(name: Name, args: tuple[Any, ...], seen: dict[str, Storage] | None = None) -> Any:
    match name.module, name.name:
        case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
            return _stored(args, None, seen)
        case "torch._utils", "_rebuild_tensor_v3":
            return _stored(args, _dtype_named(args[6]), seen)
        case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
            return args[0] if isinstance(args[0], Stored | Call) else NotImplemented
        case "collections", "OrderedDict":
            return _pairs(args[0]) if args else {}
        case "collections", "defaultdict":
            return {}
        case "torch", "Size":
            return args[0] if args and isinstance(args[0], tuple) else NotImplemented
        case "_codecs", "encode":
            return args[0].encode("latin1")
        case module, "scalar" if module in _NUMPY_NAMES:
            return _numpy_values(args[0], args[1])[0].item()
    return NotImplemented


def _pairs(value: Any) -> dict[Any, Any]:
    if not isinstance(value, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        raise PickleError("an ordered dictionary of something else than pairs")
    return {key: item for key, item in value if isinstance(key, str)}


def _stored(args: tuple[Any, ...], dtype: torch.dtype | None, seen: dict[str, Storage] | None) -> Stored:
    storage = _storage(args[0])
    if seen is not None:
        seen[storage.key] = storage
    offset, size, stride = args[1], args[2], args[3]
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise PickleError("a tensor of an impossible shape")
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise PickleError(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise PickleError("a tensor of unknown numbers")
    return Stored(storage, dtype, offset, tuple(size), tuple(stride))


def _storage(value: Any) -> Storage:
    if not isinstance(value, Persistent) or not isinstance(value.identity, tuple):
        raise PickleError("a tensor without a storage")
    word, kind, key, _, count, *view = value.identity
    if word != "storage" or not isinstance(kind, Name) or type(count) is not int or not 0 <= count < 1 << 48:
        raise PickleError("a storage of an unknown kind")
    if view and view[0] is not None:
        raise PickleError("a storage that is a part of another")
    dtype = _DTYPES.get(kind.name.removesuffix("Storage"))
    if dtype is None and kind.name != "UntypedStorage":
        raise PickleError(f"a {kind}, whose numbers are not known")
    return Storage(str(key), dtype, count)


def _dtype_named(value: Any) -> torch.dtype:
    found = getattr(torch, value.name, None) if isinstance(value, Name) and value.module == "torch" else None
    if not isinstance(found, torch.dtype):
        raise PickleError("a tensor of unknown numbers")
    return found


def array_of(value: Any) -> Tensor | None:
    """Return an array of NumPy that a pickle would build as a tensor, None for anything else.

    Raises:
        ValueError: it is damaged.
    """
    if not isinstance(value, Call) or value.name not in [f"{module}._reconstruct" for module in _NUMPY_NAMES]:
        return None
    _, shape, dtype, by_columns, data = value.state
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise PickleError("an array of an impossible shape")
    values = _numpy_values(dtype, data).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(np.ascontiguousarray(values).reshape(shape))  # a number alone would get a dimension


def _numpy_values(dtype: Any, data: Any) -> np.ndarray:
    kind = dtype.args[0] if isinstance(dtype, Call) and dtype.name == "numpy.dtype" and dtype.args else None
    data = data.encode("latin1") if isinstance(data, str) else data
    if kind not in _NUMPY_TYPES or not isinstance(data, bytes | bytearray):
        raise PickleError("an array of anything but numbers")
    order = dtype.state[1] if isinstance(dtype.state, tuple) and dtype.state[1] in ("<", ">") else "<"
    return np.frombuffer(bytes(data), f"{order}{kind}").astype(kind)
