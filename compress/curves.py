"""Curves for TensorBoard: scalars, texts and pictures as event files. Needs the package `tensorboard`, no torch."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import StageError

MISSING = 'the package {name!r} is missing. Install what trackers need: pip install "krimp[trackers]".'
_directories: list[Path] = []  # where trainings of this process and of its children write, the last one


class Curves:
    """One folder of event files, as TensorBoard shows it: one run."""

    def __init__(self, folder: Path) -> None:
        """Open the folder; it is made.

        Raises:
            StageError: the package is not installed, or the folder cannot be written.
        """
        refuse_missing("tensorboard")
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer: Any = EventFileWriter(str(folder), filename_suffix=".krimp")
        except OSError as error:
            raise StageError(f"{folder}: cannot be written: {error.strerror}. Choose another folder.") from error

    def scalars(self, values: Mapping[str, float], step: int, *, seconds: float | None = None) -> None:
        """Add numbers.

        Args:
            values: name -> number.
            step: of the curve.
            seconds: since 1970; default: now.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Summary(value=found), step, seconds)

    def text(self, name: str, markdown: str) -> None:
        """Add a text."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        plugin = SummaryMetadata.PluginData(plugin_name="text", content=b"")
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
        value = Summary.Value(tag=f"{name}/text_summary", metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
        self._add(Summary(value=[value]), 0, None)

    def picture(self, name: str, png: bytes, size: tuple[int, int]) -> None:
        """Add a PNG file of (height, width) px."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), 0, None)

    def flush(self) -> None:
        """Bring what was added to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _add(self, summary: Any, step: int, seconds: float | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time() if seconds is None else seconds, step=step, summary=summary))


def refuse_missing(name: str) -> None:
    """Raise StageError if a package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise StageError(MISSING.format(name=name))


@contextmanager
def curves_in(folder: Path | None) -> Iterator[None]:
    """Let trainings write their curves below a folder while the block runs; None changes nothing.

    Raises:
        StageError: the package is not installed.
    """
    if folder is None:
        yield
        return
    refuse_missing("tensorboard")
    _directories.append(folder)
    try:
        yield
    finally:
        _directories.pop()


def curves_of(label: str) -> Curves | None:
    """Return where a training writes its curves, None if nobody asked for them."""
    return Curves(_directories[-1] / label) if _directories else None
