"""The network in a folder: one file of its own, sharded safetensors with their index, or a cache of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

from compress.codec.files.containers import looks_like_onnx, looks_like_safetensors
from compress.codec.mapped_memory import open_map
from compress.errors import CodecError, printable

INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 100_000_000
_SHOWN = 5


def find_network(folder: Path) -> Path:
    """Return the one network in a folder, or below it: an ONNX or safetensors file, or the index of shards.

    Raises:
        CodecError: there is none, or several.
    """
    folder = _snapshot(folder)
    for pattern in ("*", "**/*"):
        found = _networks([path for path in sorted(folder.glob(pattern)) if _is_visible(path, folder)])
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(printable(path.relative_to(folder)) for path in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise CodecError(f"{folder}: is a folder with {len(found)} networks ({names}{more}). Name one of them.")
    raise CodecError(
        f"{folder}: is a folder. Expected a file, or a folder that holds an ONNX file, a safetensors file or the "
        f"shards of one with their *{INDEX_SUFFIX}."
    )


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index of sharded safetensors lists, sorted.

    Raises:
        CodecError: it is no such index.
    """
    data = open_map(index)
    try:
        if len(data) > _MAX_INDEX_BYTES:
            raise ValueError(f"{len(data)} bytes are more than {_MAX_INDEX_BYTES}")
        return shard_names(bytes(data))
    except ValueError as error:
        raise CodecError(
            f"{index}: byte 0: is no index of sharded safetensors ({printable(error)}); expected a weight_map."
        ) from error


def shard_names(index: bytes) -> list[str]:
    """Return the names of the files that the text of an index lists, sorted.

    Raises:
        ValueError: it is no such text.
    """
    try:
        listed = json.loads(index)["weight_map"].values()
        names = sorted(set(listed))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(repr(error)) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("it names no files")
    return names


def _networks(files: list[Path]) -> list[Path]:
    """Return the networks among files; the shards of an index are one, and the index stands for them."""
    indexes = [path for path in files if path.name.endswith(INDEX_SUFFIX)]
    shards = {index.parent / name for index in indexes for name in shards_of(index)}
    return [*indexes, *(path for path in files if path not in shards and path not in indexes and _is_network(path))]


def _is_network(path: Path) -> bool:
    data = open_map(path)
    return looks_like_safetensors(data) or path.suffix.lower() == ".onnx" or looks_like_onnx(data)


def _is_visible(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _snapshot(folder: Path) -> Path:
    """Return the newest files of a repository in a cache of Hugging Face, or the folder itself.

    Raises:
        CodecError: the cache holds several versions, and does not say which one is meant.
    """
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or not (folder / "blobs").is_dir():
        return folder
    versions = sorted(path for path in snapshots.iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    named = snapshots / main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else None
    if named in versions:
        return named
    if len(versions) != 1:
        names = ", ".join(printable(path.name) for path in versions[:_SHOWN]) or "none"
        raise CodecError(
            f"{folder}: is a cache with {len(versions)} versions in snapshots ({names}). Name one of them."
        )
    return versions[0]
