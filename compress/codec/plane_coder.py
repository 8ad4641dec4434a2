"""How one plane of small values is coded: which digits, joined how many at a time, with which tables.

A value inside the core range [low, low + core) is a digit; where there are values outside, the
last digit is an escape and those values follow in a stream of their own. Joining digits to one
symbol removes the one-bit floor of Huffman codes; where that does not do, table ANS does.
Plain Huffman is (256, 1); a mask of zeros in blocks of eight is (2, 8) with the core {0}; pairs of
4-bit values are (16, 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.codec.ans_code import log2_table
from compress.codec.bitstream import choose_backend, encode_symbols
from compress.codec.classes import Classes, find_classes, segment_values
from compress.codec.layout import (
    CODED,
    CODED_WITH_ESCAPES,
    CONSTANT,
    COUNTS,
    LENGTHS,
    MAX_CHUNK,
    MAX_GROUP,
    RAW,
    Plane,
    Stream,
)
from compress.codec.prefix_code import MAX_ALPHABET, limited_lengths
from compress.codec.tables import Choice, Shape, Tables

_JOINED = ((2, 8), (4, 4), (4, 6), (8, 3), (8, 4), (16, 2), (16, 3), (32, 2), (64, 2))
_JOINED_ANS = ((2, 4), (2, 6), (4, 2), (4, 3), (8, 2))
_ANS_ALPHABET = 128  # symbols of joined digits that a table of 4096 states tells apart well
_TINY = 512  # values below which another way saves less than its tables cost
_SMALL = 2048  # values below which only the cheap ways are tried
_FLAT = 1 << 16  # values below which a flat distribution is coded plainly
_MODEL_BITS = 20  # fixed point of the probabilities used for ranking
_TRIED = 3  # ways whose size is computed exactly
_FAR = 1006  # thousandths of the order-0 entropy from which table ANS is tried
_FAR_PLAIN = 1009  # the same for large planes without escapes: prefix codes are decoded twice as fast
_CLASSES_FROM = 4096  # values
_SAMPLE, _SAMPLE_BLOCK = 1 << 18, 1 << 12  # values of a large plane on which the ways are compared


@dataclass(frozen=True)
class Digits:
    """A way to turn values into symbols.

    Attributes:
        radix, group: digits 0..radix-1, joined `group` at a time.
        low: value of digit 0.
        has_escape: digit radix - 1 stands for every value outside.
    """

    radix: int
    group: int
    low: int
    has_escape: bool

    @property
    def core(self) -> int:
        """Return the number of values that have a digit of their own."""
        return self.radix - self.has_escape

    def digit_of_value(self) -> np.ndarray:
        """Return (256,), uint8: the digit of each value."""
        digits = np.full(256, self.radix - 1, dtype=np.uint8)
        digits[self.low : self.low + self.core] = np.arange(self.core)
        return digits


@dataclass(frozen=True)
class _Coding:
    """How the symbols of a stream are coded, and in how many bits, everything counted."""

    bits: int
    choices: list[Choice]
    labels: np.ndarray
    chunk: int
    segment: int


@dataclass(frozen=True)
class _Plan:
    """A way to code a plane, and its size."""

    bits: int
    digits: Digits
    symbols: np.ndarray
    main: _Coding
    escape: _Coding | None = None
    escape_digits: Digits | None = None


class _Planner:
    """Tries ways to code one plane."""

    def __init__(self, values: np.ndarray, value_bits: int, tables: Tables, backend: str, share: int = 0) -> None:
        self._share = share  # the values are 1 / 2 ** share of a plane
        self._values, self._value_bits, self._tables = values, value_bits, tables
        self.backend = choose_backend(backend, len(values))
        self.counts = histogram(values, self.backend)
        self._classes: dict[int, Classes | None] = {}
        self._joined: dict[Digits, tuple[np.ndarray, np.ndarray]] = {}
        self._escapes: dict[tuple[int, int, int], _Coding] = {}

    def of_sample(self) -> _Planner:
        """Return a planner for blocks from all over the plane, `_SAMPLE` values in all."""
        blocks = self._values[: len(self._values) // _SAMPLE_BLOCK * _SAMPLE_BLOCK].reshape(-1, _SAMPLE_BLOCK)
        number = _SAMPLE // _SAMPLE_BLOCK
        chosen = blocks[np.arange(number) * len(blocks) // number].reshape(-1)
        share = (len(self._values) // _SAMPLE).bit_length() - 1
        return _Planner(chosen, self._value_bits, self._tables, self.backend, share)

    def classes(self, segment: int) -> Classes | None:
        """Return the classes of segments of so many values, None if they are of no use."""
        if segment not in self._classes:
            self._classes[segment] = find_classes(self._values, self.counts, segment, self.backend)
        return self._classes[segment]

    def plan(self, digits: Digits, form: int, classes: Classes | None = None) -> _Plan:
        """Return the plan for some digits with codes of a form; for each class with a code of its own."""
        shape = Shape(digits.radix, digits.group, _centre(digits, self.counts))
        symbols, joint = self._join(digits, shape.centre)
        if classes is None:
            main = _one_code(self._tables.best(joint, shape, form, self._share), len(symbols))
        else:
            segment = classes.segment // digits.group
            counted = _count_classes(symbols, classes, segment, shape.alphabet, self.backend)
            choices = self._tables.best_of_classes(counted, shape, form)
            main = _class_codes(choices, len(symbols), classes, segment)
        if not digits.has_escape:
            return _Plan(main.bits, digits, symbols, main)
        escape_digits, escape = self._code_escapes(digits, form)
        return _Plan(main.bits + escape.bits, digits, symbols, main, escape, escape_digits)

    def _join(self, digits: Digits, centre: int) -> tuple[np.ndarray, np.ndarray]:
        if digits not in self._joined:
            symbols = join(self._values, digits, centre, self.backend)
            if digits.group == 1 and not digits.has_escape:
                joint = self.counts[digits.low : digits.low + digits.radix].copy()
                joint = np.append(joint, np.zeros(digits.radix - len(joint), dtype=np.int64))
            else:
                only = Classes(len(symbols), np.zeros(1, dtype=np.uint8), 1)
                joint = _count_classes(symbols, only, len(symbols), digits.radix**digits.group, self.backend)[0]
            self._joined[digits] = symbols, joint
        return self._joined[digits]

    def _code_escapes(self, digits: Digits, form: int) -> tuple[Digits, _Coding]:
        """Return how the values outside the core are coded: with the best single code."""
        rest = _outside(self.counts, digits)
        alphabet = _plain(rest, self._value_bits)
        codings = [self._escape_coding(digits, alphabet, rest, each) for each in {LENGTHS, form}]
        return alphabet, min(codings, key=lambda coding: (coding.bits, coding.choices[0].table.form))

    def _escape_coding(self, digits: Digits, alphabet: Digits, rest: np.ndarray, form: int) -> _Coding:
        key = digits.low, digits.core, form  # how many digits make a symbol does not matter
        if key not in self._escapes:
            shape = Shape(alphabet.radix, 1, _centre(alphabet, rest))
            cut = rest[alphabet.low : alphabet.low + alphabet.radix]
            self._escapes[key] = _one_code(self._tables.best(cut, shape, form, self._share), int(rest.sum()))
        return self._escapes[key]


def encode_plane(
    values: np.ndarray, value_bits: int, tables: Tables, backend: str = "auto", channel: int = 0
) -> tuple[Plane, np.ndarray, np.ndarray]:
    """Code one plane in the smallest way found.

    Args:
        values: (count,), uint8, each < 2 ** value_bits, count >= 1.
        value_bits: 2, 4 or 8.
        tables: tables of the file; new ones are added.
        backend: see `bitstream`.
        channel: values of a channel of the tensor, which may have a distribution of its own; 0 if unknown.

    Returns:
        Its description; its bytes, none for RAW, which the caller has; how often each value occurs, (256,), int64.
    """
    planner = _Planner(values, value_bits, tables, backend)
    raw = Plane(RAW), np.empty(0, dtype=np.uint8), planner.counts
    if tables.is_full():
        return raw
    plan = _choose(planner, values, value_bits, channel)
    if plan.bits >= len(values) * value_bits:
        return raw
    main, payload = _encode_stream(plan.symbols, plan.main, tables, backend)
    if plan.escape is None or plan.escape_digits is None:
        return Plane(CODED, plan.digits.low, main), payload, planner.counts
    low, number = plan.escape_digits.low, int(_outside(planner.counts, plan.digits).sum())
    outside = _select(values, plan.digits, low, number, planner.backend)
    escape, escape_payload = _encode_stream(outside, plan.escape, tables, backend)
    plane = Plane(CODED_WITH_ESCAPES, plan.digits.low, main, low, number, escape)
    return plane, np.concatenate([payload, escape_payload]), planner.counts


def _choose(planner: _Planner, values: np.ndarray, value_bits: int, channel: int) -> _Plan:
    plan, prefix = _choose_single(planner, value_bits)
    form, way = plan.main.choices[0].table.form, plan.digits
    if form == CONSTANT or plan.bits >= len(values) * value_bits or len(values) < _CLASSES_FROM:
        return plan
    plain = ans_ways(planner.counts, value_bits)[0]
    single = plan
    for code, digits in dict.fromkeys([(form, way), (COUNTS, plain), (LENGTHS, prefix)]):
        classes = planner.classes(segment_values(len(values), channel, digits.group))
        if classes is None:
            break
        plan = _smaller(plan, planner.plan(digits, code, classes), 998 if plan is single else 997)
    return plan


def _choose_single(planner: _Planner, value_bits: int) -> tuple[_Plan, Digits]:
    """Return the best plan without classes, of a large plane by a sample, and digits for prefix codes."""
    counts = planner.counts
    if int(counts.sum()) < 2 * _SAMPLE:
        return _choose_way(planner, value_bits)
    best, prefix = _choose_way(planner.of_sample(), value_bits)
    form = best.main.choices[0].table.form
    way, prefix = (_covering(digits, counts, form) for digits in (best.digits, prefix))  # it may miss the rarest values
    plan = planner.plan(way, LENGTHS if form == CONSTANT else form)
    if plan.bits * 1000 <= about_entropy(counts) * _FAR_PLAIN:
        return plan, prefix
    whole, prefix = _choose_way(planner, value_bits)  # the sample is perhaps unlike the rest
    return (whole if whole.bits < plan.bits else plan), prefix


def _choose_way(planner: _Planner, value_bits: int) -> tuple[_Plan, Digits]:
    """Return the best plan without classes, and the digits of the best one with prefix codes."""
    counts = planner.counts
    ways = shortlist(counts, value_bits)
    plan = planner.plan(ways[0], LENGTHS)
    for way in ways[1:]:
        plan = _smaller(plan, planner.plan(way, LENGTHS), 998)  # simpler ways come first, decode faster
    prefix = plan.digits
    total = int(counts.sum())
    if plan.main.choices[0].table.form == CONSTANT or total < _SMALL or plan.bits >= total * value_bits:
        return plan, prefix
    far = _FAR_PLAIN if total >= _FLAT and not plan.digits.has_escape else _FAR
    if plan.bits * 1000 > about_entropy(counts) * far:  # prefix codes are decoded faster
        for way in ans_ways(counts, value_bits):
            plan = _smaller(plan, planner.plan(way, COUNTS), 999)
    return plan, prefix


def _covering(digits: Digits, counts: np.ndarray, form: int) -> Digits:
    """Return digits for every value that occurs: these, or without escapes as many a symbol as still fit."""
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1])
    if digits.has_escape or (digits.low <= first and last < digits.low + digits.radix):
        return digits
    span, limit = last - first + 1, _ANS_ALPHABET if form == COUNTS else MAX_ALPHABET
    group = max(group for group in range(1, digits.group + 1) if group == 1 or span**group <= limit)
    return Digits(span, group, first, False)


def _smaller(plan: _Plan, other: _Plan, share: int) -> _Plan:
    """Return the other plan if it takes less than so many thousandths of the bits of the first."""
    return other if other.bits * 1000 < plan.bits * share else plan


def _one_code(choice: Choice, count: int) -> _Coding:
    if choice.table.form == CONSTANT:
        return _Coding(choice.bits, [choice], np.zeros(1, dtype=np.uint8), 0, 0)
    chunk = _chunk_symbols(choice.bits, count, choice.table.form)
    bits = choice.bits + -(-count // chunk) * _chunk_cost(choice.table.form)
    return _Coding(bits, [choice], np.zeros(-(-count // chunk), dtype=np.uint8), chunk, chunk)


def _class_codes(choices: list[Choice], count: int, classes: Classes, segment: int) -> _Coding:
    bits = sum(choice.bits for choice in choices)
    form = choices[0].table.form
    chunk = min(segment * max(_chunk_symbols(bits, count, form) // segment, 1), MAX_CHUNK // segment * segment)
    bits += -(-count // chunk) * _chunk_cost(form) + len(classes.labels) * (classes.count - 1).bit_length()
    return _Coding(bits, choices, classes.labels, chunk, segment)


def _chunk_symbols(bits: int, count: int, form: int) -> int:
    """Return how many symbols make a chunk: many short ones are decoded faster, few long ones cost less."""
    chunk = 1024
    while chunk < 8192 and chunk * bits < 350 * _chunk_cost(form) * count:
        chunk *= 2
    return chunk


def _chunk_cost(form: int) -> int:
    """Return about how many bits a chunk costs: its length, and the state where there is one."""
    return 20 if form == COUNTS else 10


def shortlist(counts: np.ndarray, value_bits: int) -> list[Digits]:
    """Return the ways worth an exact count with prefix codes, simplest first.

    Args:
        counts: (256,), int64: how often each value occurs.
        value_bits: 2, 4 or 8.
    """
    plain = _plain(counts, value_bits)
    total = int(counts.sum())
    used = np.flatnonzero(counts)
    first, span = int(used[0]), int(used[-1] - used[0]) + 1
    if span == 1:
        return [Digits(1, 1, first, False)]
    ways = [Digits(span, group, first, False) for group in range(2, 9) if span**group <= MAX_ALPHABET][-2:]
    mode = int(np.argmax(counts))
    floor = _modelled_bits(counts, plain)
    if total < _TINY or floor * 1000 >= total * value_bits * 995 or (total < _FLAT and int(counts[mode]) * 16 < total):
        return [plain]  # noise, or too flat for another way to save more than its tables cost
    if floor * 1000 <= about_entropy(counts) * 1005:
        return [plain]  # no way saves more
    ways += [way for radix, group in _JOINED if (way := _core(counts, value_bits, radix, group))]
    room = 512 if total < _SMALL else max(512, total // 8)
    ways = [way for way in ways if way.radix**way.group <= room]
    ranked = sorted((_modelled_bits(counts, way), place) for place, way in enumerate(ways))
    return [plain] + [ways[place] for bits, place in ranked[: _TRIED - 1] if bits * 1000 < floor * 998]


def ans_ways(counts: np.ndarray, value_bits: int) -> list[Digits]:
    """Return the ways worth an exact count with table ANS; the first one has no escapes."""
    used = np.flatnonzero(counts)
    first, span = int(used[0]), int(used[-1] - used[0]) + 1
    group = max(group for group in range(1, MAX_GROUP + 1) if group == 1 or span**group <= _ANS_ALPHABET)
    ways = [Digits(span, group, first, False)]
    if int(counts.max()) * 2 >= int(counts.sum()):
        ways += [way for radix, joined in _JOINED_ANS if (way := _core(counts, value_bits, radix, joined))]
    return ways


def _core(counts: np.ndarray, value_bits: int, radix: int, group: int) -> Digits | None:
    """Return digits for the values around the most frequent one, an escape for the others."""
    low = min(max(int(np.argmax(counts)) - (radix - 1) // 2, 0), (1 << value_bits) - radix + 1)
    if low < 0 or not 0 < int(counts[low : low + radix - 1].sum()) < int(counts.sum()):
        return None
    return Digits(radix, group, low, True)


def histogram(values: np.ndarray, backend: str) -> np.ndarray:
    """Count values: (256,), int64."""
    if choose_backend(backend, len(values)) == "numba":
        from compress.codec import fast_encode

        return fast_encode.histogram(values)
    return np.bincount(values, minlength=256)


def join(values: np.ndarray, digits: Digits, centre: int, backend: str) -> np.ndarray:
    """Return the symbols of a plane, (ceil(count / group),); the last one is filled with the centre.

    uint8 where each symbol is one value, else uint16.
    """
    if digits.group == 1 and not digits.has_escape:
        return values - np.uint8(digits.low) if digits.low else values
    if choose_backend(backend, len(values)) == "numba":
        from compress.codec import fast_encode

        symbols = np.empty(-(-len(values) // digits.group), dtype=np.uint16)
        fast_encode.join(values, digits.digit_of_value(), digits.radix, digits.group, centre, symbols)
        return symbols
    each = digits.digit_of_value()[values]
    missing = -len(each) % digits.group
    if missing:
        each = np.append(each, np.full(missing, centre, dtype=np.uint8))
    columns = each.reshape(-1, digits.group)
    symbols = columns[:, -1].astype(np.uint16)
    for i in range(digits.group - 2, -1, -1):
        symbols *= np.uint16(digits.radix)
        symbols += columns[:, i]
    return symbols


def _count_classes(symbols: np.ndarray, classes: Classes, segment: int, alphabet: int, backend: str) -> np.ndarray:
    """Return how often each symbol occurs in each class, (classes, alphabet), int64."""
    if choose_backend(backend, len(symbols)) == "numba":
        from compress.codec import fast_encode

        counts = np.zeros((classes.count, alphabet), dtype=np.int64)
        fast_encode.count_symbols(symbols, classes.labels, segment, counts)
        return counts
    labels = np.repeat(classes.labels.astype(np.int64) * alphabet, segment)[: len(symbols)]
    return np.bincount(labels + symbols, minlength=classes.count * alphabet).reshape(classes.count, alphabet)


def _select(values: np.ndarray, digits: Digits, low: int, number: int, backend: str) -> np.ndarray:
    """Return the values outside the core less `low`, (number,), uint8."""
    lut, marker = digits.digit_of_value(), np.uint8(digits.radix - 1)
    if choose_backend(backend, len(values)) == "numba":
        from compress.codec import fast_encode

        found = np.empty(number + 1, dtype=np.uint8)
        fast_encode.select(values, lut, marker, np.uint8(low), found)
        return found[:number]
    return values[lut[values] == marker] - np.uint8(low)


def _plain(counts: np.ndarray, value_bits: int) -> Digits:
    """Return the alphabet of the true bit width, the middle of the type kept in its middle."""
    used = np.flatnonzero(counts)
    first, last, middle = int(used[0]), int(used[-1]), 1 << value_bits - 1
    for bits in range(1, value_bits):
        if last < 1 << bits:
            return Digits(1 << bits, 1, 0, False)
        half = 1 << bits - 1
        if middle - half <= first and last < middle + half:
            return Digits(1 << bits, 1, middle - half, False)
    return Digits(1 << value_bits, 1, 0, False)


def _centre(digits: Digits, counts: np.ndarray) -> int:
    return min(max(int(np.argmax(counts)) - digits.low, 0), digits.radix - 1)


def _outside(counts: np.ndarray, digits: Digits) -> np.ndarray:
    rest = counts.copy()
    rest[digits.low : digits.low + digits.core] = 0
    return rest


def about_entropy(counts: np.ndarray) -> int:
    """Return about the order-0 entropy of all values together, bits; whole numbers only."""
    used = counts[counts > 0]
    total = np.array([int(counts.sum())])
    # Python's integers: the sum may be large.
    return sum(map(int.__mul__, used.tolist(), (_log2(total) - _log2(used)).tolist())) >> 16


def _log2(numbers: np.ndarray) -> np.ndarray:
    """Return log2 * 2 ** 16 of the leading twelve bits of positive numbers, int64."""
    shift = np.maximum(np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 12, 0)
    return (shift << 16) + log2_table()[numbers >> shift]


def _modelled_bits(counts: np.ndarray, digits: Digits) -> int:
    """Return about how many bits a way takes with prefix codes if values were independent; integers only."""
    total = int(counts.sum())
    single = np.zeros(digits.radix, dtype=np.int64)
    np.add.at(single, digits.digit_of_value(), counts)
    chance = (single << _MODEL_BITS) // total
    joint = chance
    for _ in range(digits.group - 1):
        joint = (chance[:, None] * joint[None, :] >> _MODEL_BITS).reshape(-1)
    joint = joint[joint > 0]
    per_symbol = int(joint @ limited_lengths(joint, 14)) if len(joint) > 1 else 0
    bits = (per_symbol * total // digits.group) >> _MODEL_BITS
    if digits.has_escape:
        rest = _outside(counts, digits)
        rest = rest[rest > 0]
        bits += int(rest @ limited_lengths(rest, 14)) if len(rest) > 1 else 0
    return bits


def _encode_stream(symbols: np.ndarray, coding: _Coding, tables: Tables, backend: str) -> tuple[Stream, np.ndarray]:
    numbers = tuple(tables.settle(choice) for choice in coding.choices)
    if not coding.chunk:
        return Stream(numbers), np.empty(0, dtype=np.uint8)
    chosen = [tables.tables[number] for number in numbers]
    coded = encode_symbols(symbols, chosen, coding.labels, chunk=coding.chunk, segment=coding.segment, backend=backend)
    stream = Stream(numbers, coding.chunk, coding.segment, coded.total_bits, coded.min_bits, coded.width)
    return stream, coded.payload
