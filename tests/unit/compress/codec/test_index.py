import numpy as np
import pytest

from compress.codec.format.index_reader import IndexReader
from compress.codec.format.index_writer import write_record, write_table, write_varint
from compress.codec.format.layout import CODED, CONSTANT, Plane, Stream, Table, TensorRecord
from compress.errors import CodecError


def test_a_constant_plane_that_was_read_before_is_checked_for_each_kind_of_tensor():
    table = Table(1, 1, 0, CONSTANT, np.empty(0, dtype=np.int64), 0)
    plane = Plane(CODED, 100, Stream((0,)))  # value 100: fits into eight bits, not into four
    records = [TensorRecord(0, 8, kind, (plane,), 0) for kind in (1, 1, 3)]
    data = write_varint(1) + write_table(table) + b"".join(map(write_record, records))
    reader = IndexReader(data, "f")
    tables = reader.tables()
    assert [reader.record(tables), reader.record(tables)] == records[:2]
    with pytest.raises(CodecError, match="values reach 100; expected at most 15"):
        reader.record(tables)
