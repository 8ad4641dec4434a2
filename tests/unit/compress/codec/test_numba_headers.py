"""numba reads tables and chunk lengths itself, as NumPy does: one that always left it to NumPy would only be slow."""

from pathlib import Path

import numpy as np
import pytest

from compress.codec import PackedFile
from compress.codec.entropy import ans_code, prefix_code
from compress.codec.kernels import by_numba, by_numpy, numba_headers

GOOD = sorted((Path(__file__).parents[3] / "golden" / "codec" / "good").glob("*.krimp"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_code_tables_are_those_that_numpy_reads(path, monkeypatch):
    answers = []
    read_runs = by_numba.read_runs

    def noted(*given):
        answers.append(read_runs(*given))
        return answers[-1]

    monkeypatch.setattr(by_numba, "read_runs", noted)
    with PackedFile(path, kernels="numba") as found, PackedFile(path, kernels="numpy") as wanted:
        assert len(found.tables) == len(wanted.tables)
        assert all(np.array_equal(a.entries, b.entries) for a, b in zip(found.tables, wanted.tables, strict=True))
    assert answers
    assert all(entries is not None for entries in answers)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_what_precedes_the_codes_is_what_numpy_reads(path, monkeypatch):
    jobs = []
    at_once = by_numba._decode_at_once
    monkeypatch.setattr(by_numba, "_decode_at_once", lambda job, out: jobs.append(job) or at_once(job, out))
    monkeypatch.setattr(by_numpy, "open_stream", lambda *_: pytest.fail("left to NumPy"))
    with PackedFile(path, kernels="numba") as packed:
        for tensor in packed.tensors:
            packed.decode(tensor)
    assert jobs
    found = [by_numba.open_stream(job) for job in jobs]
    monkeypatch.undo()
    for job, stream in zip(jobs, found, strict=True):
        wanted = by_numpy.open_stream(job)
        assert np.array_equal(stream.classes, wanted.classes)
        assert np.array_equal(stream.bounds, wanted.bounds)


@pytest.mark.parametrize(("symbols", "spare"), [(2, 0), (2, 4), (3, 0), (200, 1), (256, 0), (4096, 0)])
@pytest.mark.parametrize("has_names", [False, True])
def test_decoding_tables_are_those_of_numpy(symbols, spare, has_names):
    rng = np.random.default_rng(symbols)
    counts = (1000 * rng.exponential(1, symbols)).astype(np.int64) + 1
    counts[2 + (symbols - 2) // 2 :: 7] = 0  # unused ones
    lengths = prefix_code.quick_lengths(counts)
    log = int(lengths.max()) + spare if lengths.max() + spare <= prefix_code.MAX_LENGTH else int(lengths.max())
    shown = rng.integers(0, 256, symbols).astype(np.uint8) if has_names else np.arange(symbols)
    wanted = prefix_code.decode_table(lengths, log)
    out = np.empty(1 << log, dtype=np.uint16 if has_names else np.uint32)
    numba_headers.fill_prefix_table(lengths, shown, log, out)
    assert np.array_equal(out >> 8, shown[wanted >> 8])
    assert np.array_equal(out & 0xFF, wanted & 0xFF)


@pytest.mark.parametrize("log", [5, 11, 12])
@pytest.mark.parametrize("has_names", [False, True])
def test_ans_tables_are_those_of_numpy(log, has_names):
    rng = np.random.default_rng(log)
    counts = ans_code.normalize(np.minimum(rng.geometric(0.1, 30), 20) * (np.arange(30) % 5 > 0), log)
    shown = rng.integers(0, 256, 30).astype(np.uint8) if has_names else np.arange(30)
    out, wanted = np.empty(1 << log, dtype=np.uint32), ans_code.decode_table(counts)
    numba_headers.fill_ans_table(counts, shown, log, out)
    assert np.array_equal(out >> 16, shown[wanted >> 16])
    assert np.array_equal(out & 0xFFFF, wanted & 0xFFFF)
