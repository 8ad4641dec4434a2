"""The tables of a file while it is written: which code fits some counts in the fewest bits, table included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from compress.codec.entropy.ans_code import coded_bits, normalize
from compress.codec.entropy.prefix_code import MAX_ALPHABET, MAX_LENGTH, code_lengths, quick_lengths
from compress.codec.format.index_writer import table_bytes
from compress.codec.format.layout import CONSTANT, COUNTS, LENGTHS, MAX_COUNT, MAX_SYMBOLS, Table
from compress.codec.format.symbol_order import digit_distance

_SHARED = 32  # tables of the same shape that are tried for sharing
_BYTE_LENGTH = 12  # longest code of small alphabets: their decoding tables stay in the fastest memory


@dataclass(frozen=True)
class Choice:
    """A table and what it costs.

    Attributes:
        bits: coded bits, and those of the table if it is new.
        table: the table.
        weights: what its prefix code is made for; None if it is settled already.
    """

    bits: int
    table: Table
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Shape:
    """What tables must have in common to be used by one stream; see `layout.Table`."""

    radix: int
    group: int
    centre: int

    @property
    def alphabet(self) -> int:
        """Return the number of symbols."""
        return int(self.radix**self.group)


class Tables:
    """The tables of a file; equal and fitting ones are shared."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self._symbols = 0  # alphabets of all tables together
        self._known: dict[tuple[Shape, int], list[int]] = {}

    def mark(self) -> int:
        """Return the number of tables, for `cut`."""
        return len(self.tables)

    def cut(self, mark: int) -> list[Table]:
        """Take off and return the tables from a number on."""
        gone = self.tables[mark:]
        for table in gone:
            self._symbols -= table.alphabet
            self._known[_known_key(table)].pop()
        del self.tables[mark:]
        return gone

    def add(self, tables: list[Table]) -> None:
        """Put tables on that were cut off, under the numbers they had."""
        for table in tables:
            self._known.setdefault(_known_key(table), []).append(len(self.tables))
            self.tables.append(table)
            self._symbols += table.alphabet

    def is_full(self) -> bool:
        """Return True if the tables of another tensor could pass a limit of the format."""
        return self._symbols + 64 * MAX_ALPHABET > MAX_SYMBOLS or len(self.tables) + 64 > MAX_COUNT

    def best(self, counts: np.ndarray, shape: Shape, form: int, share: int = 0) -> Choice:
        """Return the table of a form that codes these counts in the fewest bits.

        Args:
            counts: (alphabet,), int64, at least one positive.
            shape: of the table.
            form: LENGTHS or COUNTS; a constant table is returned where one symbol is alone.
            share: the counts are of 1 / 2 ** share of what is coded with the table, which costs as much less.
        """
        used = np.flatnonzero(counts)
        if len(used) == 1:
            table = _table(shape, CONSTANT, np.empty(0, dtype=np.int64), int(used[0]))
            return Choice(0 if self._find(table) is not None else 8 * table_bytes(table), table)
        return min(self._candidates(counts, shape, form, share), key=lambda choice: choice.bits)

    def best_of_classes(self, counts: np.ndarray, shape: Shape, form: int) -> list[Choice]:
        """Return a table for each row of counts, (classes, alphabet), all of the same form."""
        # A class of one symbol needs a second one, and an empty class anything.
        padded = counts.copy()
        for row in padded:
            if np.count_nonzero(row) < 2:
                row[np.argsort(-counts.sum(axis=0), kind="stable")[:2]] += 1
        return [min(self._candidates(row, shape, form, 0), key=lambda choice: choice.bits) for row in padded]

    def settle(self, choice: Choice) -> int:
        """Return the number of the chosen table; a new one gets its final code lengths here."""
        table = choice.table
        if choice.weights is not None:
            table = replace(table, entries=code_lengths(choice.weights, _longest(table.alphabet)))
        number = self._find(table)
        if number is None:
            number = len(self.tables)
            self.add([table])
        return number

    def _candidates(self, counts: np.ndarray, shape: Shape, form: int, share: int) -> list[Choice]:
        found = []
        for weights in _smoothings(counts, shape):
            if form == LENGTHS:
                # As short in all as the lengths of `huffman`, and quicker to get.
                table = _table(shape, LENGTHS, quick_lengths(weights, _longest(shape.alphabet)))
                bits = int(counts @ table.entries)
            else:
                table = _table(shape, COUNTS, normalize(weights, 12 if shape.alphabet > 32 else 11))
                bits = coded_bits(counts, table.entries)
            if share:  # a code fits the counts that it is made from better than those of the whole
                bits += 2 * int(np.count_nonzero(counts))
            found.append(Choice(bits + (8 * table_bytes(table) >> share), table, weights if form == LENGTHS else None))
        for number in self._known.get((shape, form), [])[-_SHARED:]:
            known = self.tables[number]
            if not counts[known.entries == 0].any():
                bits = int(counts @ known.entries) if form == LENGTHS else coded_bits(counts, known.entries)
                found.append(Choice(bits, known))
        return found

    def _find(self, table: Table) -> int | None:
        shape = Shape(table.radix, table.group, table.centre)
        for number in self._known.get((shape, table.form), []):
            known = self.tables[number]
            if known.constant == table.constant and np.array_equal(known.entries, table.entries):
                return number
        return None


def _known_key(table: Table) -> tuple[Shape, int]:
    return Shape(table.radix, table.group, table.centre), table.form


def _longest(alphabet: int) -> int:
    return _BYTE_LENGTH if alphabet <= 256 else MAX_LENGTH


def _table(shape: Shape, form: int, entries: np.ndarray, constant: int = 0) -> Table:
    return Table(shape.radix, shape.group, shape.centre, form, entries, constant)


def _smoothings(counts: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Return the counts as they are, and averaged over symbols that are about equally far from the centre.

    The code of averaged counts is a little worse and its table much shorter.
    """
    distance = _distance(shape)
    return [counts, _averaged(counts, distance), _averaged(counts, _coarse(distance))]


@lru_cache(maxsize=256)
def _distance(shape: Shape) -> np.ndarray:
    return digit_distance(shape.radix, shape.group, shape.centre)


def _coarse(distance: np.ndarray) -> np.ndarray:
    """Return bins of distances that grow by a quarter: 0, 1, ... 7, 8-9, 10-11, 12-13, 14-15, 16-19 ..."""
    small = np.maximum(distance, 1)
    whole = np.frexp(small.astype(np.float64))[1].astype(np.int64) - 1  # exact: floor(log2)
    return np.where(distance < 8, distance, 8 + 4 * (whole - 3) + ((small >> np.maximum(whole - 2, 0)) & 3))


def _averaged(counts: np.ndarray, bins: np.ndarray) -> np.ndarray:
    members = np.bincount(bins)
    sums = np.zeros(len(members), dtype=np.int64)
    np.add.at(sums, bins, counts)
    mean = np.where(sums > 0, np.maximum((sums << 12) // np.maximum(members, 1), 1), 0)
    averaged: np.ndarray = mean[bins]
    return averaged
