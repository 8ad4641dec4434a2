"""A plain decoder of .krimp files, written from FORMAT.md alone and from nothing else. One bit at a time."""

import hashlib
import lzma
import struct
import zlib

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
    refuse_if(data[8:10] != b"\1\0", "version")
    refuse_if(len(data) < 108, "header")
    (container, flags, tensors, original_bytes, sha, payload_bytes, skeleton_bytes, skeleton_packed, index_bytes,
     index_packed, skeleton_crc, index_crc, header_crc) = struct.unpack_from("<BBIQ32sQQQQQIII", data, 10)  # fmt: skip
    refuse_if(zlib.crc32(data[:104]) != header_crc, "header crc")
    refuse_if(container > 2 or flags > 3, "container or flags")
    refuse_if(len(data) != 108 + payload_bytes + skeleton_packed + index_packed, "size")
    refuse_if(skeleton_bytes > original_bytes or tensors > 1 << 17 or index_bytes > 1 << 28, "limits")
    refuse_if(original_bytes > min(1 << 36, len(data) << 20), "limits")
    skeleton_at = 108 + payload_bytes
    index_at = skeleton_at + skeleton_packed
    skeleton = section(data[skeleton_at:index_at], skeleton_bytes, flags & 1, skeleton_crc)
    index = Bytes(section(data[index_at:], index_bytes, flags & 2, index_crc))
    num_tables = index.varint()
    refuse_if(num_tables > 1 << 17, "limits")
    tables = [read_table(index) for _ in range(num_tables)]
    refuse_if(sum(radix**group for radix, group, _, _ in tables) > 1 << 24, "limits")
    payload, rest, original = Bytes(data[108:skeleton_at]), Bytes(skeleton), bytearray()
    for _ in range(tensors):
        original += rest.take(index.varint())
        original += read_tensor(index, payload, tables)
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
        refuse_if(not decoder.eof, "section")
    refuse_if(len(packed) != size, "section size")
    return packed


def read_table(index):
    """Return (radix, group, centre, {code: symbol} or the constant symbol)."""
    radix, group, centre, form = index.varint(), index.varint(), index.varint(), index.byte()
    refuse_if(not radix or not 1 <= group <= 12 or radix**group > 4096 or centre >= radix or form > 1, "table")
    if form == 1:
        symbol = index.varint()
        refuse_if(symbol >= radix**group, "table")
        return radix, group, centre, symbol

    def distance(symbol):
        return sum(abs(symbol // radix**i % radix - centre) for i in range(group))

    lengths = []
    while len(lengths) < radix**group:
        token = index.byte()
        lengths += [token >> 4] * ((token & 15) + 1 if token & 15 < 15 else 16 + index.varint())
    refuse_if(len(lengths) > radix**group, "table")
    order = sorted(range(radix**group), key=lambda symbol: (distance(symbol), symbol))
    pairs = sorted((length, symbol) for length, symbol in zip(lengths, order, strict=True) if length)
    refuse_if(len(pairs) < 2 or pairs[-1][0] > 14 or sum(2 ** (14 - length) for length, _ in pairs) != 2**14, "table")
    codes, code, before = {}, 0, pairs[0][0]
    for length, symbol in pairs:
        code <<= length - before
        codes[f"{code:0{length}b}"] = symbol
        code, before = code + 1, length
    return radix, group, centre, codes


def read_tensor(index, payload, tables):
    num_bytes, kind = index.varint(), index.byte()
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
    radix, group, centre, _ = tables[main[0]]
    refuse_if(low + radix - (method == 2) > 1 << bits, "range")
    if method == 2:
        escape_low, escapes, escape = index.byte(), index.varint(), read_stream(index, tables)
        refuse_if(escapes == 0 or tables[escape[0]][1] != 1 or escape_low + tables[escape[0]][0] > 1 << bits, "escape")
    symbols = read_symbols(payload, main, -(-count // group), tables)
    digits = [symbol // radix**i % radix for symbol in symbols for i in range(group)]
    refuse_if(any(digit != centre for digit in digits[count:]), "digits after the last value")
    if method == 1:
        return [low + digit for digit in digits[:count]]
    refuse_if(digits[:count].count(radix - 1) != escapes, "number of escapes")
    values = iter(read_symbols(payload, escape, escapes, tables))
    return [escape_low + next(values) if digit == radix - 1 else low + digit for digit in digits[:count]]


def read_stream(index, tables):
    table, chunk_log2 = index.varint(), index.byte()
    refuse_if(table >= len(tables) or (chunk_log2 == 0) != isinstance(tables[table][3], int), "stream")
    if chunk_log2 == 0:
        return table, 0, 0, 0, 0
    total_bits, min_bits, width = index.varint(), index.varint(), index.byte()
    refuse_if(not 2 <= chunk_log2 <= 16 or total_bits == 0 or width > 24, "stream")
    return table, chunk_log2, total_bits, min_bits, width


def read_symbols(payload, stream, count, tables):
    table, chunk_log2, total_bits, min_bits, width = stream
    codes = tables[table][3]
    if isinstance(codes, int):
        return [codes] * count
    refuse_if(count > total_bits, "more symbols than bits")
    chunks = -(-count // 2**chunk_log2)
    lengths = Bits(payload.take(((chunks - 1) * width + 7) // 8))
    sizes = [min_bits + lengths.number(width) for _ in range(chunks - 1)]
    lengths.pad()
    refuse_if(sum(sizes) >= total_bits, "chunk lengths")
    sizes.append(total_bits - sum(sizes))
    bits = Bits(payload.take((total_bits + 7) // 8))
    symbols = []
    for size in sizes:
        end = bits.at + size
        for _ in range(min(2**chunk_log2, count - len(symbols))):
            code = str(bits.bit())
            while code not in codes:
                code += str(bits.bit())
            symbols.append(codes[code])
        refuse_if(bits.at != end, "chunk does not end where it should")
    bits.pad()
    return symbols
