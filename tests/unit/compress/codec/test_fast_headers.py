"""numba reads tables and chunk lengths itself, as NumPy does: one that always left it to NumPy would only be slow."""

from pathlib import Path

import numpy as np
import pytest

from compress.codec import PackedFile, index, prefix_code, stream_decoder

fast_headers = pytest.importorskip("compress.codec.fast_headers")

GOOD = sorted((Path(__file__).parents[3] / "golden" / "codec" / "good").glob("*.krimp"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_code_tables_are_those_that_numpy_reads(path, monkeypatch):
    answers = []
    by_numba = index.IndexReader._entries_numba

    def noted(reader, size, form):
        answers.append(by_numba(reader, size, form))
        return answers[-1]

    monkeypatch.setattr(index.IndexReader, "_entries_numba", noted)
    with PackedFile(path, backend="numba") as found, PackedFile(path, backend="numpy") as wanted:
        assert len(found.tables) == len(wanted.tables)
        assert all(np.array_equal(a.entries, b.entries) for a, b in zip(found.tables, wanted.tables, strict=True))
    assert answers
    assert all(entries is not None for entries in answers)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_what_precedes_the_codes_is_what_numpy_reads(path, monkeypatch):
    seen = []
    by_numba = stream_decoder._read_numba

    def noted(job, chunks, segments):
        found, wanted = by_numba(job, chunks, segments), stream_decoder._read_numpy(0, job, chunks, segments)
        seen.append(all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)))
        return found

    monkeypatch.setattr(stream_decoder, "_read_numba", noted)
    with PackedFile(path, backend="numba") as packed:
        for tensor in packed.tensors:
            packed.decode(tensor)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(("symbols", "spare"), [(2, 0), (2, 4), (3, 0), (200, 1), (256, 0), (4096, 0)])
@pytest.mark.parametrize("has_names", [False, True])
def test_decoding_tables_are_those_of_numpy(symbols, spare, has_names):
    rng = np.random.default_rng(symbols)
    counts = (1000 * rng.exponential(1, symbols)).astype(np.int64) + 1
    counts[2 + (symbols - 2) // 2 :: 7] = 0  # unused ones
    lengths = prefix_code.quick_lengths(counts)
    log = int(lengths.max()) + spare if lengths.max() + spare <= prefix_code.MAX_LENGTH else int(lengths.max())
    names = rng.integers(0, 256, symbols).astype(np.uint8) if has_names else None
    wanted = prefix_code.decode_table(lengths, log, names)
    out = np.empty_like(wanted)
    fast_headers.fill_prefix_table(lengths, np.arange(symbols) if names is None else names, log, out)
    assert np.array_equal(out, wanted)
