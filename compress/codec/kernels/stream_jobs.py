"""Streams of symbols on their way to their values: what there is to decode, and into what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from compress.codec.format.layout import COUNTS, Stream, Table

TAIL = 16  # bytes that must follow the codes, so that windows never end outside


@dataclass(frozen=True, eq=False)
class Expansion:
    """What the symbols of an alphabet stand for.

    Attributes:
        digits: (alphabet, group), uint8, read-only: the bytes of each symbol.
    """

    digits: np.ndarray

    @property
    def group(self) -> int:
        """Return the bytes of a symbol."""
        return int(self.digits.shape[1])

    @cached_property
    def names(self) -> bytes | None:
        """Return the byte of each symbol, where it is one."""
        return self.digits.tobytes() if self.group == 1 else None

    @cached_property
    def words(self) -> np.ndarray | None:
        """Return the bytes of each symbol as a number, first one least significant, where they are several."""
        if self.group == 1:
            return None
        wide = np.zeros((len(self.digits), 8), dtype=np.uint8)
        wide[:, : self.group] = self.digits
        return wide.view("<u8")[:, 0]


@lru_cache(maxsize=64)
def expansion(radix: int, group: int, low: int, flip: int) -> Expansion:
    """Return what the symbols of an alphabet stand for.

    Args:
        radix: of the digits.
        group: digits of a symbol.
        low: value of digit 0; values go on at 0 after 255.
        flip: bits to invert in each value.
    """
    symbols = np.arange(radix**group)
    digits = np.stack([symbols // radix**i % radix for i in range(group)], axis=1)
    expanded = ((digits + low & 0xFF) ^ flip).astype(np.uint8)
    expanded.flags.writeable = False
    return Expansion(expanded)


class StreamError(ValueError):
    """A stream contradicts itself; `number` says which of the jobs."""

    def __init__(self, number: int, what: str) -> None:
        self.number = number
        super().__init__(what)


class StreamJob(NamedTuple):  # quicker to make than a dataclass, as all below: a file has thousands
    """One stream to decode.

    Attributes:
        data: (>= size + TAIL,), uint8, read-only: its payload, then anything.
        size: bytes of the payload.
        symbols: how many, >= 1.
        stream: its description, not constant.
        tables: tables of its classes.
        expansion: the bytes that each symbol stands for.
    """

    data: np.ndarray
    size: int
    symbols: int
    stream: Stream
    tables: tuple[Table, ...]
    expansion: Expansion

    @property
    def is_ans(self) -> bool:
        """Return True for table ANS, False for a prefix code."""
        return self.tables[0].form == COUNTS

    @property
    def log(self) -> int:
        """Return log2 of the size of a decoding table."""
        return self.tables[0].log or max([table.longest for table in self.tables])

    @property
    def parts(self) -> tuple[int, int]:
        """Return the number of chunks and of segments."""
        return -(-self.symbols // self.stream.chunk), -(-self.symbols // self.stream.segment)

    @property
    def head_bytes(self) -> int:
        """Return the bytes before the codes: classes of the segments, lengths of the chunks."""
        chunks, segments = self.parts
        return (segments * self.stream.selector_bits + 7) // 8 + ((chunks - 1) * self.stream.width + 7) // 8

    def check_bits(self, number: int) -> None:
        """Refuse a prefix code of less than a bit a symbol.

        Args:
            number: of the stream, for errors.

        Raises:
            StreamError: it is one.
        """
        bits = self.stream.total_bits
        if not self.is_ans and self.symbols > bits:
            raise StreamError(number, f"{self.symbols} symbols in {bits} bits; expected a bit or more for each")


class OpenStream(NamedTuple):
    """A stream of which what precedes its codes has been read and checked.

    Attributes:
        job: the stream.
        classes: (segments,), uint8.
        bounds: (chunks + 1,), int64: where each chunk begins, and the last one ends; bits from the payload's begin.
    """

    job: StreamJob
    classes: np.ndarray
    bounds: np.ndarray

    def symbols_in(self, first: int, stop: int) -> int:
        """Return the number of symbols in the chunks from `first` to before `stop`."""
        chunk = self.job.stream.chunk
        return min(self.job.symbols, stop * chunk) - min(self.job.symbols, first * chunk)


class Piece(NamedTuple):
    """Chunks of a stream that are decoded together.

    Attributes:
        number: of the stream, for errors.
        stream: the stream.
        first, stop: its chunks from `first` to before `stop`.
        out: (values,), uint8, contiguous: for their values, those of whole symbols but for the very last.
    """

    number: int
    stream: OpenStream
    first: int
    stop: int
    out: np.ndarray

    @classmethod
    def whole(cls, number: int, stream: OpenStream, out: np.ndarray) -> Piece:
        """Return all chunks of a stream."""
        return cls(number, stream, 0, len(stream.bounds) - 1, out)

    def wrong_end(self, chunk: int, stop_bit: int, last_state: int | None) -> StreamError:
        """Return the error of a chunk that does not end where the next one begins, or not in state 0.

        Args:
            chunk: its number in the piece.
            stop_bit: where its codes end; bits from the payload's begin.
            last_state: of table ANS.
        """
        codes, end = self.stream.bounds[0], self.stream.bounds[self.first + chunk + 1]
        state = "" if last_state is None else f" in state {last_state}"
        wanted = "" if last_state is None else ", and state 0 is the last one"
        return StreamError(
            self.number,
            f"codes of chunk {self.first + chunk} end at bit {stop_bit - int(codes)}{state};"
            f" the index says {int(end - codes)}{wanted}",
        )
