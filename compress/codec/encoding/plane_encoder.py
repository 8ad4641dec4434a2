"""How one plane of small values is coded: the way that takes the fewest bits, tables and all; ways: `digits`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.codec.encoding.digits import (
    FLAT,
    SMALL,
    Digits,
    about_entropy,
    ans_ways,
    covering,
    outside,
    plain_digits,
    shortlist,
)
from compress.codec.encoding.segment_classes import Classes, find_classes, segment_values
from compress.codec.encoding.stream_encoder import encode_symbols
from compress.codec.encoding.table_choice import Choice, Shape, Tables
from compress.codec.format.layout import (
    CODED,
    CODED_WITH_ESCAPES,
    CONSTANT,
    COUNTS,
    LENGTHS,
    MAX_CHUNK,
    RAW,
    Plane,
    Stream,
)
from compress.codec.kernels.contract import Kernels

_FAR = 1006  # thousandths of the order-0 entropy from which table ANS is tried
_FAR_PLAIN = 1009  # the same for large planes without escapes: prefix codes are decoded twice as fast
_CLASSES_FROM = 4096  # values
_SAMPLE, _SAMPLE_BLOCK = 1 << 18, 1 << 12  # values of a large plane on which the ways are compared


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

    def __init__(self, values: np.ndarray, value_bits: int, tables: Tables, kernels: Kernels, share: int = 0) -> None:
        self._share = share  # the values are 1 / 2 ** share of a plane
        self._values, self._value_bits, self._tables = values, value_bits, tables
        self._kernels = kernels
        self.counts = kernels.histogram(values)
        self._classes: dict[int, Classes | None] = {}
        self._joined: dict[Digits, tuple[np.ndarray, np.ndarray]] = {}
        self._escapes: dict[tuple[int, int, int], _Coding] = {}

    def of_sample(self) -> _Planner:
        """Return a planner for blocks from all over the plane, `_SAMPLE` values in all."""
        blocks = self._values[: len(self._values) // _SAMPLE_BLOCK * _SAMPLE_BLOCK].reshape(-1, _SAMPLE_BLOCK)
        number = _SAMPLE // _SAMPLE_BLOCK
        chosen = blocks[np.arange(number) * len(blocks) // number].reshape(-1)
        share = (len(self._values) // _SAMPLE).bit_length() - 1
        return _Planner(chosen, self._value_bits, self._tables, self._kernels, share)

    def classes(self, segment: int) -> Classes | None:
        """Return the classes of segments of so many values, None if they are of no use."""
        if segment not in self._classes:
            self._classes[segment] = find_classes(self._values, self.counts, segment, self._kernels)
        return self._classes[segment]

    def plan(self, digits: Digits, form: int, classes: Classes | None = None) -> _Plan:
        """Return the plan for some digits with codes of a form; for each class with a code of its own."""
        shape = Shape(digits.radix, digits.group, _centre(digits, self.counts))
        symbols, joint = self._join(digits, shape.centre)
        if classes is None:
            main = _one_code(self._tables.best(joint, shape, form, self._share), len(symbols))
        else:
            segment = classes.segment // digits.group
            counted = self._kernels.count_symbols(symbols, classes.labels, segment, classes.count, shape.alphabet)
            choices = self._tables.best_of_classes(counted, shape, form)
            main = _class_codes(choices, len(symbols), classes, segment)
        if not digits.has_escape:
            return _Plan(main.bits, digits, symbols, main)
        escape_digits, escape = self._code_escapes(digits, form)
        return _Plan(main.bits + escape.bits, digits, symbols, main, escape, escape_digits)

    def _join(self, digits: Digits, centre: int) -> tuple[np.ndarray, np.ndarray]:
        if digits not in self._joined:
            symbols = _join(self._values, digits, centre, self._kernels)
            if digits.group == 1 and not digits.has_escape:
                joint = self.counts[digits.low : digits.low + digits.radix].copy()
                joint = np.append(joint, np.zeros(digits.radix - len(joint), dtype=np.int64))
            else:
                only, alphabet = np.zeros(1, dtype=np.uint8), digits.radix**digits.group
                joint = self._kernels.count_symbols(symbols, only, len(symbols), 1, alphabet)[0]
            self._joined[digits] = symbols, joint
        return self._joined[digits]

    def _code_escapes(self, digits: Digits, form: int) -> tuple[Digits, _Coding]:
        """Return how the values outside the core are coded: with the best single code."""
        rest = outside(self.counts, digits)
        alphabet = plain_digits(rest, self._value_bits)
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
    values: np.ndarray, value_bits: int, tables: Tables, kernels: Kernels, channel: int = 0
) -> tuple[Plane, np.ndarray, np.ndarray]:
    """Code one plane in the smallest way found.

    Args:
        values: (count,), uint8, each < 2 ** value_bits, count >= 1.
        value_bits: 2, 4 or 8.
        tables: tables of the file; new ones are added.
        kernels: what runs the loops; the bytes are the same.
        channel: values of a channel of the tensor, which may have a distribution of its own; 0 if unknown.

    Returns:
        Its description; its bytes, none for RAW, which the caller has; how often each value occurs, (256,), int64.
    """
    planner = _Planner(values, value_bits, tables, kernels)
    raw = Plane(RAW), np.empty(0, dtype=np.uint8), planner.counts
    if tables.is_full():
        return raw
    plan = _choose(planner, values, value_bits, channel)
    if plan.bits >= len(values) * value_bits:
        return raw
    main, payload = _encode_stream(plan.symbols, plan.main, tables, kernels)
    if plan.escape is None or plan.escape_digits is None:
        return Plane(CODED, plan.digits.low, main), payload, planner.counts
    low, number = plan.escape_digits.low, int(outside(planner.counts, plan.digits).sum())
    escaped = kernels.select_escapes(values, plan.digits.digit_of_value(), plan.digits.radix - 1, low, number)
    escape, escape_payload = _encode_stream(escaped, plan.escape, tables, kernels)
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
    way, prefix = (covering(digits, counts, form) for digits in (best.digits, prefix))  # it may miss the rarest values
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
    if plan.main.choices[0].table.form == CONSTANT or total < SMALL or plan.bits >= total * value_bits:
        return plan, prefix
    far = _FAR_PLAIN if total >= FLAT and not plan.digits.has_escape else _FAR
    if plan.bits * 1000 > about_entropy(counts) * far:  # prefix codes are decoded faster
        for way in ans_ways(counts, value_bits):
            plan = _smaller(plan, planner.plan(way, COUNTS), 999)
    return plan, prefix


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


def _join(values: np.ndarray, digits: Digits, centre: int, kernels: Kernels) -> np.ndarray:
    """Return the symbols of a plane, (ceil(count / group),); the last one is filled with the centre.

    uint8 where each symbol is one value, else uint16.
    """
    if digits.group == 1 and not digits.has_escape:
        return values - np.uint8(digits.low) if digits.low else values
    return kernels.join_digits(values, digits.digit_of_value(), digits.radix, digits.group, centre)


def _centre(digits: Digits, counts: np.ndarray) -> int:
    return min(max(int(np.argmax(counts)) - digits.low, 0), digits.radix - 1)


def _encode_stream(symbols: np.ndarray, coding: _Coding, tables: Tables, kernels: Kernels) -> tuple[Stream, np.ndarray]:
    numbers = tuple(tables.settle(choice) for choice in coding.choices)
    if not coding.chunk:
        return Stream(numbers), np.empty(0, dtype=np.uint8)
    chosen = [tables.tables[number] for number in numbers]
    coded = encode_symbols(symbols, chosen, coding.labels, chunk=coding.chunk, segment=coding.segment, kernels=kernels)
    stream = Stream(numbers, coding.chunk, coding.segment, coded.total_bits, coded.min_bits, coded.width)
    return stream, coded.payload
