"""A plain decoder of .krimp files, written from FORMAT.md alone and from nothing else. One bit at a time."""

import hashlib
import lzma
import struct
import zlib
from dataclasses import dataclass

PLANES = {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 8: 2, 9: 4, 10: 8, 12: 2, 13: 4, 14: 8, 16: 2, 17: 4, 18: 8}
BITS = {2: 4, 3: 4, 4: 2, 5: 2}


class RefusedError(Exception):
    """The text says that this file must be refused."""


def refuse_if(condition, reason):
    if condition:
        raise RefusedError(reason)


class Bytes:
    """A cursor over bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        refuse_if(self.at + count > len(self.data), "too short")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                refuse_if(byte == 0 and shift > 7, "varint not shortest")
                return value
            refuse_if(shift > 63, "varint too long")


class Bits:
    """A cursor over bits, least significant first."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bit(self):
        refuse_if(self.at >> 3 >= len(self.data), "too few bits")
        self.at += 1
        return self.data[self.at - 1 >> 3] >> (self.at - 1 & 7) & 1

    def number(self, width):
        return sum(self.bit() << i for i in range(width))

    def pad(self):
        while self.at & 7:
            refuse_if(self.bit(), "padding not zero")


def decode(data):
    """Return the original of a .krimp file."""
    refuse_if(data[:8] != b"\x89KRIMP\r\n", "magic")
    refuse_if(data[8:10] not in (b"\1\0", b"\2\0"), "version")
    version = data[8]
    refuse_if(len(data) < 108, "header")
    (container, flags, tensors, original_bytes, sha, payload_bytes, skeleton_bytes, skeleton_packed, index_bytes,
     index_packed, skeleton_crc, index_crc, header_crc) = struct.unpack_from("<BBIQ32sQQQQQIII", data, 10)  # fmt: skip
    refuse_if(zlib.crc32(data[:104]) != header_crc, "header crc")
    refuse_if(container > 2 or flags > 3, "container or flags")
    refuse_if(len(data) != 108 + payload_bytes + skeleton_packed + index_packed, "size")
    refuse_if(
        skeleton_bytes > original_bytes or index_bytes > min(1 << 26, (64 if version == 1 else 1024) * index_packed),
        "limits",
    )
    refuse_if(tensors > min(1 << 17, index_bytes // (8 if version == 1 else 4)), "limits")
    refuse_if(original_bytes > min(1 << 36, len(data) << 20), "limits")
    skeleton_at = 108 + payload_bytes
    index_at = skeleton_at + skeleton_packed
    skeleton = section(data[skeleton_at:index_at], skeleton_bytes, flags & 1, skeleton_crc)
    index = Bytes(section(data[index_at:], index_bytes, flags & 2, index_crc))
    read_side_files(index, original_bytes)
    num_tables = index.varint()
    refuse_if(num_tables > min(1 << 17, index_bytes // 5), "limits")
    tables = [read_table(index) for _ in range(num_tables)]
    refuse_if(sum(table.radix**table.group for table in tables) > 1 << 22, "limits")
    payload, rest, original = Bytes(data[108:skeleton_at]), Bytes(skeleton), bytearray()
    heaps, records = [], []
    if version == 2:
        number = index.varint()
        refuse_if(number > 1 << 10, "limits")
        heaps = [Bytes(read_tensor(index, payload, tables, 1 << 24, 2)) for _ in range(number)]
    for _ in range(tensors):
        original += rest.take(index.varint())
        room = original_bytes - len(original)
        kind = kind_ahead(index) if version == 2 else 0
        if kind in (33, 35):
            num_bytes, _, number = index.varint(), index.byte(), index.varint()
            refuse_if(num_bytes == 0 or num_bytes > room, "size")
            if kind == 33:
                refuse_if(number == 0 or number > len(records) or records[-number] is None, "copy")
                refuse_if(len(records[-number]) != num_bytes, "copy of another size")
                original += records[-number]
                records.append(None)
            else:
                refuse_if(number >= len(heaps), "heap")
                records.append(heaps[number].take(num_bytes))
                original += records[-1]
        else:
            records.append(read_tensor(index, payload, tables, room, version))
            original += records[-1]
    refuse_if(any(heap.at != len(heap.data) for heap in heaps), "heap not used up")
    refuse_if(not all(table.is_used for table in tables), "table without use")
    refuse_if(index.at != len(index.data) or payload.at != len(payload.data), "bytes left over")
    original += rest.take(len(skeleton) - rest.at)
    refuse_if(len(original) != original_bytes or hashlib.sha256(original).digest() != sha, "sha256")
    return bytes(original)


def section(packed, size, is_lzma, crc):
    refuse_if(zlib.crc32(packed) != crc, "section crc")
    if is_lzma:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 8 << 20}])
        try:
            packed = decoder.decompress(packed, size + 1)
        except lzma.LZMAError as error:
            raise RefusedError("not LZMA2") from error
        refuse_if(not decoder.eof or decoder.unused_data, "section")
    refuse_if(len(packed) != size, "section size")
    return packed


def read_side_files(index, original_bytes):
    """Return [(name, size)] of the files that follow the network."""
    number = index.varint()
    refuse_if(number > 1 << 12, "limits")
    files = []
    for _ in range(number):
        size = index.varint()
        refuse_if(size > 1024, "name too long")
        try:
            name = index.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RefusedError("not UTF-8") from error
        refuse_if(any(part in ("", ".", "..") for part in name.split("/")), "name")
        refuse_if(any(ord(letter) < 32 or letter in '\x7f\\:*?"<>|' for letter in name), "name")
        refuse_if(name in [known for known, _ in files], "name twice")
        files.append((name, index.varint()))
    refuse_if(sum(size for _, size in files) > original_bytes, "side files")
    return files


@dataclass
class Table:
    """code: {text of bits: symbol}, the constant symbol, or [(symbol, next state, bits to read)] of the states."""

    radix: int
    group: int
    centre: int
    form: int
    log: int
    code: object
    is_used: bool = False

    @property
    def shape(self):
        return self.radix, self.group, self.centre, self.form, self.log


def read_table(index):
    radix, group, centre, form = index.varint(), index.varint(), index.varint(), index.byte()
    refuse_if(not radix or not 1 <= group <= 8 or radix**group > 4096 or centre >= radix or form > 2, "table")
    size = radix**group
    if form == 1:
        symbol = index.varint()
        refuse_if(symbol >= size, "table")
        return Table(radix, group, centre, 1, 0, symbol)
    log = index.byte() if form == 2 else 0
    refuse_if(form == 2 and not 5 <= log <= 12, "log")

    def distance(symbol):
        return sum(abs(symbol // radix**i % radix - centre) for i in range(group))

    listed = []
    while len(listed) < size:
        if form == 0:
            token = index.byte()
            entry, run = token >> 4, (token & 15) + 1 if token & 15 < 15 else 16 + index.varint()
        else:
            token = index.varint()
            entry, run = token >> 1, 2 + index.varint() if token & 1 else 1
        refuse_if(len(listed) + run > size, "table")
        listed += [entry] * run
    order = sorted(range(size), key=lambda symbol: (distance(symbol), symbol))
    entries = dict(zip(order, listed, strict=True))
    refuse_if(sum(entry > 0 for entry in listed) < 2, "table")
    code = prefix_code(entries) if form == 0 else ans_states(entries, log)
    return Table(radix, group, centre, form, log, code)


def prefix_code(lengths):
    pairs = sorted((length, symbol) for symbol, length in lengths.items() if length)
    refuse_if(pairs[-1][0] > 14 or sum(2 ** (14 - length) for length, _ in pairs) != 2**14, "code")
    codes, code, before = {}, 0, pairs[0][0]
    for length, symbol in pairs:
        code <<= length - before
        codes[f"{code:0{length}b}"] = symbol
        code, before = code + 1, length
    return codes


def ans_states(counts, log):
    size = 2**log
    refuse_if(sum(counts.values()) != size, "counts")
    symbols, place = [None] * size, 0
    for symbol in sorted(counts):
        for _ in range(counts[symbol]):
            symbols[place] = symbol
            place = (place + size // 2 + size // 8 + 3) % size
    numbers, states = dict(counts), []
    for symbol in symbols:
        number = numbers[symbol]
        numbers[symbol] += 1
        bits = log - (number.bit_length() - 1)
        states.append((symbol, number * 2**bits - size, bits))
    return states


def kind_ahead(index):
    """Return the kind of the record whose size comes next, without reading it."""
    at = index.at
    index.varint()
    kind = index.byte()
    index.at = at
    return kind


def read_lzma(index, payload, num_bytes):
    delta, dictionary, packed_bytes = index.byte(), index.byte(), index.varint()
    largest = 12
    while 1 << largest < num_bytes and largest < 26:
        largest += 1
    refuse_if(not 12 <= dictionary <= largest, "dictionary")
    packed = payload.take(packed_bytes)
    (crc,) = struct.unpack("<I", index.take(4))
    refuse_if(zlib.crc32(packed) != crc, "tensor crc")
    out = bytearray(unpack_lzma(packed, num_bytes, dictionary))
    for i in range(delta, num_bytes if delta else 0):
        out[i] = (out[i] + out[i - delta]) % 256
    return bytes(out)


def unpack_lzma(packed, size, dictionary=23):
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << dictionary}])
    try:
        out = decoder.decompress(packed, size + 1)
    except lzma.LZMAError as error:
        raise RefusedError("not LZMA2") from error
    refuse_if(not decoder.eof or decoder.unused_data or len(out) != size, "LZMA2 ends elsewhere")
    return out


def read_numbered(index, payload, tables, num_bytes):
    form, element, kind = index.byte(), index.byte(), index.byte()
    refuse_if(form > 1 or kind not in (0, 16), "form")
    refuse_if(element not in (range(2, 256) if form == 0 else range(7)), "element")
    size = element if form == 0 else (2, 2, 4, 8, 8, 4, 4)[element]
    refuse_if(num_bytes % size, "half an element")
    count = num_bytes // size
    base = negative_zero = 0
    inner = 1
    if form == 1:
        folded, negative_zero, inner = index.varint(), index.byte(), index.varint()
        refuse_if(folded > 1 << 16 or negative_zero > 1 or not 1 <= inner <= count, "scaled")
        base = folded // 2 if folded % 2 == 0 else -(folded + 1) // 2
        refuse_if(negative_zero and base > 0, "negative zero")
    entries, is_packed, packed_bytes = index.varint(), index.byte(), index.varint()
    refuse_if(entries == 0 or is_packed > 1, "entries")
    refuse_if(entries > (min(count, 1 << 16) if form == 0 else -(-count // inner)), "entries")
    entry_bytes = size if form == 0 else 8 if element == 3 else 4
    refuse_if(packed_bytes > entries * entry_bytes, "entries")
    start = payload.at
    listed = payload.take(packed_bytes)
    planes = 1 if kind == 0 else 2
    digits = [read_plane(index, payload, tables, count, 8, count) for _ in range(planes)]
    (crc,) = struct.unpack("<I", index.take(4))
    refuse_if(zlib.crc32(payload.data[start : payload.at]) != crc, "tensor crc")
    listed = unpack_lzma(listed, entries * entry_bytes) if is_packed else listed
    refuse_if(len(listed) != entries * entry_bytes, "entries")
    numbers = [int.from_bytes(bytes(each), "little") for each in zip(*digits, strict=True)]
    if form == 0:
        refuse_if(max(numbers) >= entries, "number of no entry")
        return b"".join(listed[number * size : (number + 1) * size] for number in numbers)
    letter = "d" if element == 3 else "f"
    scales = struct.unpack(f"<{entries}{letter}", listed)
    refuse_if(any(not 0 < scale < float("inf") for scale in scales), "scale")
    out = bytearray()
    for e, number in enumerate(numbers):
        integer = base + number - (1 if negative_zero and number > -base else 0)
        value = -0.0 if negative_zero and number == -base else integer * scales[e // inner % entries]
        out += widened(rounded(value, letter, {4: 2, 5: 0, 6: 1}.get(element, element)), element)
    return bytes(out)


def widened(data, element):
    """Return the bytes of an element that is stored in a wider type."""
    if element == 4:
        return struct.pack("<d", struct.unpack("<f", data)[0])
    if element == 5:
        return struct.pack("<f", struct.unpack("<e", data)[0])
    return bytes(2) + data if element == 6 else data


def rounded(value, letter, element):
    """Return the bytes of an element; the product of an integer and a float32 is exact in Python's floats."""
    data = pack_float(value, letter)
    if element == 0:
        return pack_float(struct.unpack("<f", data)[0], "e")
    if element == 1:
        bits = int.from_bytes(data, "little")
        low, bits = bits & 0xFFFF, bits >> 16
        return (bits + (low > 0x8000 or (low == 0x8000 and bits & 1))).to_bytes(2, "little")
    return data


def pack_float(value, letter):
    try:
        return struct.pack(f"<{letter}", value)
    except OverflowError:
        return struct.pack(f"<{letter}", float("inf") if value > 0 else float("-inf"))


def read_runs(index, payload, tables, num_bytes, depth):
    group, announced, width = index.varint(), index.byte(), index.byte()
    refuse_if(not 1 <= group <= 1 << 16 or announced > 2 or width not in (1, 2, 4), "runs")
    refuse_if(announced == 0 and width != 1, "wide bits")
    refuse_if(num_bytes == 0 or num_bytes % group, "half a group")
    groups = read_tensor(index, payload, tables, 1 << 24, 2, depth + 1)
    numbers = read_tensor(index, payload, tables, 1 << 24, 2, 3)
    refuse_if(len(groups) % group or len(numbers) % width or len(groups) // group > 1 << 21, "runs")
    if announced == 0:
        return read_bits(groups, numbers, group, num_bytes // group)
    listed = iter([int.from_bytes(numbers[i : i + width], "little") for i in range(0, len(numbers), width)])
    out, before = bytearray(), None
    for at in range(0, len(groups), group):
        value = groups[at : at + group]
        more = 0
        if announced == 1 or value == before:
            more = next(listed, None)
            refuse_if(more is None, "too few numbers")
        refuse_if(len(out) + (more + 1) * group > num_bytes, "too many groups")
        out += value * (more + 1)
        before = value
    refuse_if(next(listed, None) is not None or len(out) != num_bytes, "runs do not fit")
    return bytes(out)


def read_bits(groups, mask, group, count):
    refuse_if(len(mask) != (count + 7) // 8, "mask")
    rest = iter([groups[at : at + group] for at in range(group, len(groups), group)])
    out = bytearray()
    for number in range(count):
        value = next(rest, None) if mask[number // 8] >> number % 8 & 1 else groups[:group]
        refuse_if(value is None, "too few groups")
        out += value
    refuse_if(next(rest, None) is not None, "too many groups")
    refuse_if(count % 8 and mask[-1] >> count % 8, "bits behind the last group")
    return bytes(out)


def read_tensor(index, payload, tables, room, version, depth=0):
    num_bytes, kind = index.varint(), index.byte()
    refuse_if(num_bytes > room, "tensor passes the end of the original")
    if version == 2 and kind == 36 and depth < 3:
        return read_runs(index, payload, tables, num_bytes, depth)
    if version == 2 and kind in (32, 34):
        refuse_if(num_bytes == 0, "size")
        if kind == 32:
            return read_lzma(index, payload, num_bytes)
        return read_numbered(index, payload, tables, num_bytes)
    refuse_if(kind not in PLANES or num_bytes == 0 or num_bytes % PLANES[kind], "kind")
    planes, bits = PLANES[kind], BITS.get(kind, 8)
    count = num_bytes * 8 // bits if planes == 1 else num_bytes // planes
    start = payload.at
    decoded = [read_plane(index, payload, tables, count, bits, num_bytes // planes) for _ in range(planes)]
    (crc,) = struct.unpack("<I", index.take(4))
    refuse_if(zlib.crc32(payload.data[start : payload.at]) != crc, "tensor crc")
    if planes == 1:
        if isinstance(decoded[0], bytes):
            return decoded[0]
        values = [value ^ (1 << bits - 1 if kind in (1, 3, 5) else 0) for value in decoded[0]]
        each = 8 // bits
        return bytes(sum(values[i + j] << j * bits for j in range(each)) for i in range(0, count, each))
    out = bytearray()
    for digits in zip(*decoded, strict=True):
        number = int.from_bytes(bytes(digits), "little")
        if kind in (8, 9, 10):
            number = number >> 1 | (number & 1) << 8 * planes - 1
        elif kind in (12, 13, 14):
            number = (number >> 1 if number % 2 == 0 else -(number + 1) // 2) % (1 << 8 * planes)
        out += number.to_bytes(planes, "little")
    return bytes(out)


def read_plane(index, payload, tables, count, bits, raw_bytes):
    method = index.byte()
    refuse_if(method > 2, "method")
    if method == 0:
        return payload.take(raw_bytes)
    low = index.byte()
    main = read_stream(index, tables)
    table = main.tables[0]
    refuse_if(low + table.radix - (method == 2) > 1 << bits, "range")
    if method == 2:
        refuse_if(table.radix > 1 << bits, "escape that no value needs")
        escape_low, escapes, escape = index.byte(), index.varint(), read_stream(index, tables)
        refuse_if(not 1 <= escapes <= count or escape_low + escape.tables[0].radix > 1 << bits, "escape")
    digits = read_digits(payload, main, count)
    if method == 1:
        return [low + digit for digit in digits]
    refuse_if(digits.count(table.radix - 1) != escapes, "number of escapes")
    values = iter(read_digits(payload, escape, escapes))
    return [escape_low + next(values) if digit == table.radix - 1 else low + digit for digit in digits]


@dataclass
class Stream:
    tables: list
    chunk: int = 0
    segment: int = 0
    total_bits: int = 0
    min_bits: int = 0
    width: int = 0


def read_stream(index, tables):
    classes = index.byte()
    refuse_if(not 1 <= classes <= 16, "classes")
    numbers = [index.varint() for _ in range(classes)]
    refuse_if(max(numbers) >= len(tables), "table")
    mine = [tables[number] for number in numbers]
    for table in mine:
        table.is_used = True
    refuse_if(any(table.shape != mine[0].shape for table in mine), "tables differ")
    chunk = index.varint()
    refuse_if(chunk > 1 << 20, "chunk")
    if mine[0].form == 1:
        refuse_if(chunk or classes > 1, "constant")
        return Stream(mine)
    segment = index.varint() if classes > 1 else chunk
    refuse_if(not chunk or segment < 16 or chunk % segment, "segment")
    stream = Stream(mine, chunk, segment, index.varint(), index.varint(), index.byte())
    refuse_if(stream.total_bits == 0 or stream.width > 24, "stream")
    return stream


def read_digits(payload, stream, count):
    table = stream.tables[0]
    symbols = read_symbols(payload, stream, -(-count // table.group))
    return [symbol // table.radix**i % table.radix for symbol in symbols for i in range(table.group)][:count]


def read_symbols(payload, stream, count):
    form, log = stream.tables[0].form, stream.tables[0].log
    if form == 1:
        return [stream.tables[0].code] * count
    refuse_if(form == 0 and count > stream.total_bits, "more symbols than bits")
    segments, chunks = -(-count // stream.segment), -(-count // stream.chunk)
    selector_bits = (len(stream.tables) - 1).bit_length()
    selectors = Bits(payload.take((segments * selector_bits + 7) // 8))
    classes = [selectors.number(selector_bits) for _ in range(segments)]
    selectors.pad()
    refuse_if(max(classes) >= len(stream.tables), "class")
    lengths = Bits(payload.take(((chunks - 1) * stream.width + 7) // 8))
    sizes = [stream.min_bits + lengths.number(stream.width) for _ in range(chunks - 1)]
    lengths.pad()
    refuse_if(sum(sizes) >= stream.total_bits, "chunk lengths")
    sizes.append(stream.total_bits - sum(sizes))
    bits = Bits(payload.take((stream.total_bits + 7) // 8))
    symbols = []
    for size in sizes:
        end = bits.at + size
        state = bits.number(log)
        for _ in range(min(stream.chunk, count - len(symbols))):
            code = stream.tables[classes[len(symbols) // stream.segment]].code
            if form == 2:
                symbol, following, more = code[state]
                state = following + bits.number(more)
            else:
                text = str(bits.bit())
                while text not in code:
                    text += str(bits.bit())
                symbol = code[text]
            symbols.append(symbol)
        refuse_if(bits.at != end or state, "chunk does not end where it should")
    bits.pad()
    return symbols
