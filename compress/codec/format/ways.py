"""Ways of coding a tensor that version 2 of the format adds: LZMA, a copy, numbers of values (FORMAT.md, section 8).

Runs, which hold records of their own, are in `layout`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

LZMA, COPY, NUMBERED, PART, RUNS = 32, 33, 34, 35, 36  # in place of a kind
LISTED, SCALED = 0, 1
ELEMENTS = {  # of scaled integers
    0: "float16", 1: "bfloat16", 2: "float32", 3: "float64", 4: "float32 as float64", 5: "float16 as float32",
    6: "bfloat16 as float32",
}  # fmt: skip
ELEMENT_BYTES = (2, 2, 4, 8, 8, 4, 4)
NARROW = {4: 2, 5: 0, 6: 1}  # what is stored in a wider type -> the type it was computed in
MIN_DICTIONARY, MAX_DICTIONARY = 12, 26  # log2 of bytes
MAX_ENTRIES = 1 << 16
MAX_HEAPS = 1 << 10
MAX_HEAP_BYTES = 1 << 24
MAX_GROUP_BYTES = 1 << 16  # that are repeated together
MAX_GROUPS = 1 << 21  # of one tensor that is coded by runs
MAX_DEPTH = 3  # runs in the values of runs
SMALLEST_LISTED, LARGEST_LISTED = 2, 255  # bytes of an element of a list
_MOST_SCALED = 1 << 15  # distance of an integer from zero


class Lzma(NamedTuple):
    """A raw LZMA2 stream, perhaps of differences.

    Attributes:
        delta: distance of the bytes whose difference is packed; 0: the bytes themselves.
        dictionary: log2 of its bytes.
        packed_bytes: in the payload.
    """

    delta: int
    dictionary: int
    packed_bytes: int


class Copy(NamedTuple):
    """The bytes of an earlier tensor.

    Attributes:
        back: how many records before this one; that one is no copy.
    """

    back: int


class Part(NamedTuple):
    """Bytes of a heap, in which small tensors are coded together.

    Attributes:
        heap: its number.
        first: where in it.
    """

    heap: int
    first: int


class Numbered(NamedTuple):
    """Elements that are numbered, and the numbers coded in their place.

    Attributes:
        form: LISTED or SCALED.
        element: LISTED: bytes of an element, 2 to 255. SCALED: key of ELEMENTS.
        entries: LISTED: how many different elements. SCALED: how many scales.
        base: SCALED: the integer of number 0.
        has_negative_zero: SCALED: there is a number for -0.0 just below that of 0.0.
        inner: SCALED: elements in a row that share a scale.
        is_lzma: the values of the list, or the scales, are packed like a section.
        packed_bytes: of them in the payload.
    """

    form: int
    element: int
    entries: int
    base: int
    has_negative_zero: bool
    inner: int
    is_lzma: bool
    packed_bytes: int

    @property
    def element_bytes(self) -> int:
        """Return the bytes of an element."""
        return self.element if self.form == LISTED else ELEMENT_BYTES[self.element]

    @property
    def entry_bytes(self) -> int:
        """Return the bytes of a value of the list, or of a scale."""
        return 4 if self.form == SCALED and self.element != 3 else self.element_bytes


Way = Lzma | Copy | Numbered | Part


class Reader(Protocol):
    """What an index is read with; see `IndexReader`."""

    def byte(self) -> int:
        """Return the next byte."""

    def varint(self, limit: int = ...) -> int:
        """Return the next number, at most `limit`."""

    def fail(self, what: str) -> Exception:
        """Return the error for the current position."""


def largest_dictionary(num_bytes: int) -> int:
    """Return log2 of the largest dictionary for so many bytes, as large as they are."""
    return min(max((num_bytes - 1).bit_length(), MIN_DICTIONARY), MAX_DICTIONARY)


def read_lzma(reader: Reader, num_bytes: int) -> Lzma:
    """Read how a tensor is packed by LZMA."""
    delta, dictionary = reader.byte(), reader.byte()
    if not MIN_DICTIONARY <= dictionary <= largest_dictionary(num_bytes):
        raise reader.fail(
            f"dictionary of 2 ** {dictionary} bytes; expected 2 ** {MIN_DICTIONARY} to"
            f" 2 ** {largest_dictionary(num_bytes)}"
        )
    return Lzma(delta, dictionary, reader.varint())


def read_numbered(reader: Reader, num_bytes: int) -> tuple[Numbered, int]:
    """Read how elements are numbered, and the kind of the numbers."""
    form, element, codes = reader.byte(), reader.byte(), reader.byte()
    known = range(SMALLEST_LISTED, LARGEST_LISTED + 1) if form == LISTED else ELEMENTS
    if form > SCALED or codes not in (0, 16) or element not in known:
        raise reader.fail(f"form {form} of elements {element} with numbers of kind {codes}; expected a known one")
    found = Numbered(form, element, 0, 0, False, 1, False, 0)
    if num_bytes % found.element_bytes:
        raise reader.fail(f"{num_bytes} bytes; expected whole elements of {found.element_bytes}")
    count = num_bytes // found.element_bytes
    base, flags, inner = 0, 0, 1
    if form == SCALED:
        folded, flags, inner = reader.varint(2 * _MOST_SCALED), reader.byte(), reader.varint(count)
        base = folded >> 1 if folded & 1 == 0 else -(folded + 1) // 2
    if flags > 1 or inner == 0 or (flags and base > 0):
        raise reader.fail(f"flags {flags}, {inner} elements a scale, base {base}; expected 0 or 1, some, none above 0")
    entries = reader.varint(min(count, MAX_ENTRIES) if form == LISTED else -(-count // inner))
    is_lzma, packed_bytes = reader.byte(), reader.varint()
    size = entries * found.entry_bytes
    if entries == 0 or is_lzma > 1 or packed_bytes > size or (not is_lzma and packed_bytes != size):
        raise reader.fail(f"{entries} entries in {packed_bytes} bytes; expected some, in at most {size}")
    return found._replace(
        entries=entries,
        base=base,
        has_negative_zero=bool(flags),
        inner=inner,
        is_lzma=bool(is_lzma),
        packed_bytes=packed_bytes,
    ), codes
