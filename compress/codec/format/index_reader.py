"""From bytes to the index of a .krimp file; everything that FORMAT.md, sections 4 to 6, refuses is refused here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compress.codec.entropy.ans_code import MAX_LOG, MIN_LOG
from compress.codec.entropy.prefix_code import MAX_ALPHABET, MAX_LENGTH, is_complete
from compress.codec.format.file_names import unsafe_name
from compress.codec.format.layout import (
    CODED,
    CODED_WITH_ESCAPES,
    CONSTANT,
    COUNTS,
    KINDS,
    LENGTHS,
    MAX_CHUNK,
    MAX_CLASSES,
    MAX_COUNT,
    MAX_FILES,
    MAX_GROUP,
    MAX_NAME_BYTES,
    MAX_ORIGINAL_BYTES,
    MAX_SYMBOLS,
    MAX_WIDTH,
    MIN_CHUNK,
    MIN_TABLE_BYTES,
    RAW,
    Plane,
    Runs,
    SideFile,
    Stream,
    Table,
    TensorRecord,
)
from compress.codec.format.symbol_order import symbol_order
from compress.codec.format.ways import (
    COPY,
    LZMA,
    MAX_DEPTH,
    MAX_GROUP_BYTES,
    MAX_GROUPS,
    MAX_HEAP_BYTES,
    MAX_HEAPS,
    NUMBERED,
    PART,
    RUNS,
    Copy,
    Part,
    read_lzma,
    read_numbered,
)
from compress.errors import CodecError

# (index, first byte, are they counts, number of entries) -> entries and the byte behind them, or None: cannot
ReadRuns = Callable[[bytes, int, bool, int], tuple[np.ndarray, int] | None]
_NO_ENTRIES = np.empty(0, dtype=np.int64)


class IndexReader:
    """Reads tables and records from the unpacked index; every step checks that bytes are left."""

    def __init__(self, data: bytes, name: str, read_runs: ReadRuns | None = None, version: int = 1) -> None:
        """Begin at the first byte.

        Args:
            data: the unpacked index.
            name: path for messages.
            read_runs: what reads the entries of a table more quickly, where it can.
            version: of the format.
        """
        self._version = version
        self._data, self._name, self._at, self._symbols = data, name, 0, 0
        self._read_runs = read_runs
        self._heaps: list[int] = []  # bytes of each, and how many of them tensors have taken
        self._taken: list[int] = []
        self._unused: set[int] = set()  # tables that no stream has named so far
        self._constants: dict[tuple[bytes, int], Plane] = {}  # by what the index says of them

    def fail(self, what: str) -> CodecError:
        """Return the error for the current position."""
        return CodecError(f"{self._name}: index byte {self._at}: {what}.")

    def byte(self) -> int:
        """Return the next byte."""
        if self._at >= len(self._data):
            raise self.fail("the index ends inside a record; expected more bytes")
        self._at += 1
        return self._data[self._at - 1]

    def varint(self, limit: int = MAX_ORIGINAL_BYTES * 16) -> int:
        """Return the next number, at most `limit`."""
        value = shift = 0
        for byte in self._data[self._at : self._at + 11]:  # of so many the last one is always too much
            self._at += 1
            value |= (byte & 0x7F) << shift
            if value > limit or shift > 63:
                raise self.fail(f"number {value} is too large; expected at most {limit}")
            if byte < 0x80:
                if byte == 0 and shift:
                    raise self.fail("number is not written in the shortest way; expected no zero byte at its end")
                return value
            shift += 7
        self._at = len(self._data)
        return self.byte()  # which says that there is none

    def end(self) -> None:
        """Refuse bytes after the last record, and tables without use."""
        if self._unused:
            raise self.fail(f"table {min(self._unused)} is used by no stream; expected tables with a use only")
        if self._taken != self._heaps:
            raise self.fail(f"heaps of {self._heaps} bytes, of which {self._taken} are used; expected all")
        if self._at != len(self._data):
            raise self.fail(f"{len(self._data) - self._at} bytes follow the last record; expected none")

    def side_files(self) -> list[SideFile]:
        """Read the files that follow the original."""
        files: list[SideFile] = []
        for _ in range(self.varint(MAX_FILES)):
            size = self.varint(MAX_NAME_BYTES)
            raw = bytes(self.byte() for _ in range(size))
            name = raw.decode("utf-8", errors="replace")
            reason = unsafe_name(name) if name.encode() == raw else "is not UTF-8"
            if reason or any(file.name == name for file in files):
                raise self.fail(f"file name {name!r} {reason or 'is there twice'}; expected a path inside the folder")
            files.append(SideFile(name, self.varint()))
        return files

    def tables(self) -> list[Table]:
        """Read all tables."""
        number = self.varint(MAX_COUNT)
        if number * MIN_TABLE_BYTES > len(self._data):
            raise self.fail(f"{number} tables in an index of {len(self._data)} bytes; expected fewer")
        self._unused = set(range(number))
        return [self._table() for _ in range(number)]

    def _table(self) -> Table:
        """Read one table."""
        radix, group = self.varint(MAX_ALPHABET), self.varint(MAX_GROUP)
        size = radix**group if radix and group else 0
        if not 1 <= size <= MAX_ALPHABET:
            raise self.fail(f"alphabet of {radix} to the power of {group} symbols; expected 1 to {MAX_ALPHABET}")
        self._symbols += size
        if self._symbols > MAX_SYMBOLS:
            raise self.fail(f"tables of {self._symbols} symbols together; expected at most {MAX_SYMBOLS}")
        centre = self.varint(radix - 1)
        form = self.byte()
        if form == CONSTANT:
            return Table(radix, group, centre, CONSTANT, _NO_ENTRIES, self.varint(size - 1))
        if form not in (LENGTHS, COUNTS):
            raise self.fail(f"table form {form}; expected 0, 1 or 2")
        log = self.byte() if form == COUNTS else 0
        if form == COUNTS and not MIN_LOG <= log <= MAX_LOG:
            raise self.fail(f"2 ** {log} states; expected 2 ** {MIN_LOG} to 2 ** {MAX_LOG}")
        entries = np.zeros(size, dtype=np.int64)
        entries[symbol_order(radix, group, centre)] = self._entries(size, form)
        if form == LENGTHS and not is_complete(entries):
            raise self.fail(f"code lengths do not form a complete code of at most {MAX_LENGTH} bits")
        if form == COUNTS and (int(entries.sum()) != 1 << log or np.count_nonzero(entries) < 2):
            raise self.fail(f"counts have the sum {int(entries.sum())}; expected {1 << log}, of two symbols or more")
        return Table(radix, group, centre, form, entries)

    def _entries(self, size: int, form: int) -> np.ndarray:
        """Read a list of `size` entries that is written in runs, int64."""
        if self._read_runs and (found := self._read_runs(self._data, self._at, form == COUNTS, size)):
            self._at = found[1]
            return found[0]
        data, at, end = self._data, self._at, len(self._data)
        entries: list[int] = []
        runs: list[int] = []
        listed = 0
        while listed < size:
            token = data[at] if at < end else -1
            if form == LENGTHS and token & 15 < 15:
                entry, run, at = token >> 4, (token & 15) + 1, at + 1
            elif form == COUNTS and token & 0x81 == 0:  # one byte, for one symbol
                entry, run, at = token >> 1, 1, at + 1
            else:
                self._at = at
                entry, run = self._long_run(form)
                at = self._at
            listed += run
            if listed > size:
                self._at = at
                raise self.fail(f"{listed} symbols in a table; expected {size}")
            entries.append(entry)
            runs.append(run)
        self._at = at
        return np.repeat(np.array(entries, dtype=np.int64), runs)

    def _long_run(self, form: int) -> tuple[int, int]:
        """Read one run of any kind: its entry and its length."""
        if form == LENGTHS:
            token = self.byte()
            run = token & 15
            return token >> 4, run + 1 if run < 15 else 16 + self.varint(MAX_ALPHABET)
        token = self.varint(2 << MAX_LOG | 1)
        return token >> 1, 2 + self.varint(MAX_ALPHABET) if token & 1 else 1

    def record(self, tables: list[Table]) -> TensorRecord:
        """Read one tensor record."""
        gap, num_bytes, kind = self.varint(), self.varint(), self.byte()
        if self._version > 1 and kind == COPY:
            return TensorRecord(gap, num_bytes, 0, (), 0, Copy(self.varint(MAX_COUNT)))
        if self._version > 1 and kind == PART:
            return TensorRecord(gap, num_bytes, 0, (), 0, self._part(num_bytes))
        return self._coded(tables, gap, num_bytes, kind)

    def heaps(self, tables: list[Table]) -> list[TensorRecord]:
        """Read the records of the heaps."""
        if self._version == 1:
            return []
        found = []
        for _ in range(self.varint(MAX_HEAPS)):
            record = self._coded(tables, 0, self.varint(MAX_HEAP_BYTES), self.byte())
            found.append(record)
        self._heaps = [record.num_bytes for record in found]
        self._taken = [0] * len(found)
        return found

    def _part(self, num_bytes: int) -> Part:
        """Read which heap has a tensor: the bytes behind those of the part before."""
        heap = self.varint(MAX_HEAPS)
        first = self._taken[heap] if heap < len(self._heaps) else 0
        if heap >= len(self._heaps) or num_bytes == 0 or first + num_bytes > self._heaps[heap]:
            raise self.fail(f"{num_bytes} bytes of heap {heap}, from {first}; expected some that are there")
        self._taken[heap] += num_bytes
        return Part(heap, first)

    def _coded(self, tables: list[Table], gap: int, num_bytes: int, kind: int, depth: int = 0) -> TensorRecord:
        """Read the rest of a record that has codes of its own."""
        if self._version > 1 and kind == RUNS and depth < MAX_DEPTH:
            return TensorRecord(gap, num_bytes, 0, (), 0, self._runs(tables, num_bytes, depth + 1))
        if self._version > 1 and kind in (LZMA, NUMBERED):
            return self._other_way(tables, gap, num_bytes, kind)
        if (form := KINDS.get(kind)) is None:
            raise self.fail(f"tensor kind {kind}; expected one of {sorted(KINDS)}")
        if num_bytes == 0 or num_bytes % form.planes:
            raise self.fail(f"{num_bytes} bytes of {form.name}; expected whole elements, at least one")
        count, num_values = num_bytes // form.planes * (8 // form.value_bits), 1 << form.value_bits
        planes = tuple([self._plane(tables, count, num_values) for _ in range(form.planes)])
        return TensorRecord(gap, num_bytes, kind, planes, self._checksum())

    def _runs(self, tables: list[Table], num_bytes: int, depth: int) -> Runs:
        """Read how groups are repeated; only those of the values may be so again."""
        group, announced, width = self.varint(MAX_GROUP_BYTES), self.byte(), self.byte()
        widths = {0: (1,), 1: (1, 2, 4), 2: (1, 2, 4)}.get(announced, ())
        if group == 0 or num_bytes == 0 or num_bytes % group or width not in widths:
            raise self.fail(
                f"{num_bytes} bytes in groups of {group}, {announced} of which announce a number of {width} bytes;"
                " expected whole groups, 1 or 2, and 1, 2 or 4, or 0 and 1"
            )
        values = self._coded(tables, 0, self.varint(MAX_HEAP_BYTES), self.byte(), depth)
        numbers = self._coded(tables, 0, self.varint(MAX_HEAP_BYTES), self.byte(), MAX_DEPTH)
        if values.num_bytes % group or numbers.num_bytes % width or values.num_bytes > group * MAX_GROUPS:
            raise self.fail(
                f"{values.num_bytes} and {numbers.num_bytes} bytes of groups and numbers; expected whole ones of"
                f" {group} and {width}, at most {MAX_GROUPS} groups"
            )
        return Runs(group, announced, width, values, numbers)

    def _other_way(self, tables: list[Table], gap: int, num_bytes: int, kind: int) -> TensorRecord:
        """Read the rest of a record of version 2."""
        if num_bytes == 0:
            raise self.fail("0 bytes; expected at least one")
        if kind == LZMA:
            lzma = read_lzma(self, num_bytes)
            return TensorRecord(gap, num_bytes, 0, (), self._checksum(), lzma)
        way, codes = read_numbered(self, num_bytes)
        count = num_bytes // way.element_bytes
        planes = tuple([self._plane(tables, count, 256) for _ in range(KINDS[codes].planes)])
        return TensorRecord(gap, num_bytes, codes, planes, self._checksum(), way)

    def _checksum(self) -> int:
        at = self._at
        if at + 4 > len(self._data):
            self._at = len(self._data)
            self.byte()
        self._at += 4
        return int.from_bytes(self._data[at : at + 4], "little")

    def _plane(self, tables: list[Table], count: int, num_values: int) -> Plane:
        if (constant := self._constant_plane(tables, num_values)) is not None:
            return constant
        method = self.byte()
        if method == RAW:
            return Plane(RAW)
        if method not in (CODED, CODED_WITH_ESCAPES):
            raise self.fail(f"method {method}; expected 0, 1 or 2")
        low, main = self.byte(), self._stream(tables)
        self._check_range(low + tables[main.tables[0]].radix - (method == CODED_WITH_ESCAPES), num_values)
        if method == CODED:
            return Plane(CODED, low, main)
        if tables[main.tables[0]].radix > num_values:  # and the byte of the escape would be that of a value
            raise self.fail(f"an escape beside digits of all {num_values} values; expected some without")
        escape_low, escapes, escape = self.byte(), self.varint(), self._stream(tables)
        self._check_range(escape_low + tables[escape.tables[0]].radix, num_values)
        if not 0 < escapes <= count:
            raise self.fail(f"{escapes} escapes among {count} values; expected at least one and not more than values")
        return Plane(CODED_WITH_ESCAPES, low, main, escape_low, escapes, escape)

    def _constant_plane(self, tables: list[Table], num_values: int) -> Plane | None:
        """Read a plane of one constant stream in one go, which many planes are; else read nothing."""
        head = self._data[self._at : self._at + 5]
        if known := self._constants.get((head, num_values)):
            self._at += 5
            return known
        if len(head) < 5 or head[0] != CODED or head[2] != 1 or head[3] >= min(len(tables), 0x80) or head[4] != 0:
            return None
        low, number = head[1], head[3]
        if tables[number].form != CONSTANT or low + tables[number].radix > num_values:
            return None
        self._at += 5
        self._unused.discard(number)
        plane = self._constants[head, num_values] = Plane(CODED, low, Stream((number,)))
        return plane

    def _check_range(self, end: int, num_values: int) -> None:
        if end > num_values:
            raise self.fail(f"values reach {end - 1}; expected at most {num_values - 1}")

    def _stream(self, tables: list[Table]) -> Stream:
        classes = self.byte()
        if not 1 <= classes <= MAX_CLASSES:
            raise self.fail(f"stream of {classes} tables; expected 1 to {MAX_CLASSES}")
        numbers = (self.varint(),) if classes == 1 else tuple([self.varint() for _ in range(classes)])
        if max(numbers) >= len(tables):
            raise self.fail(f"table {max(numbers)}; expected less than {len(tables)}")
        self._unused.difference_update(numbers)
        chunk = self.varint(MAX_CHUNK)
        first = tables[numbers[0]]
        if classes > 1 and any(tables[number].shape != first.shape for number in numbers):
            raise self.fail("tables of one stream differ in radix, group, centre, form or size; expected equal ones")
        if first.form == CONSTANT:
            if classes > 1 or chunk:
                raise self.fail(f"constant stream with {classes} tables and chunks of {chunk}; expected 1 and 0")
            return Stream(numbers)
        segment = self.varint(MAX_CHUNK) if classes > 1 else chunk
        if segment < MIN_CHUNK or chunk == 0 or chunk % segment:
            raise self.fail(
                f"chunks of {chunk} symbols, segments of {segment}; expected segments of {MIN_CHUNK} or more,"
                " whole ones in a chunk"
            )
        total_bits, min_bits, width = self.varint(), self.varint(), self.byte()
        if total_bits == 0 or width > MAX_WIDTH:
            raise self.fail(f"stream of {total_bits} bits, lengths of {width} bits; expected some, at most {MAX_WIDTH}")
        return Stream(numbers, chunk, segment, total_bits, min_bits, width)
