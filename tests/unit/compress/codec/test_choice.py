"""Which kernels run, by name, size and environment."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress import codec
from compress.codec.kernels import by_numba, by_numpy
from compress.codec.kernels.choice import choose
from compress.errors import CodecError

LARGE = 1 << 24
MODULE = "compress.codec.kernels.by_numba"


@pytest.fixture
def not_yet_loaded(monkeypatch):
    """Have numba's kernels look as if nothing had imported them so far."""
    monkeypatch.delitem(sys.modules, MODULE)
    monkeypatch.delattr("compress.codec.kernels.by_numba")
    monkeypatch.delenv("KRIMP_NUMBA", raising=False)


@pytest.mark.parametrize("num_bytes", [0, LARGE])
def test_kernels_that_are_asked_for_are_taken_whatever_the_size(num_bytes):
    assert choose("numpy", num_bytes) is by_numpy
    assert choose("numba", num_bytes) is by_numba


def test_a_small_file_does_not_wait_for_numba(not_yet_loaded):
    assert choose("auto", LARGE - 1) is by_numpy
    assert MODULE not in sys.modules


def test_a_large_file_is_worth_numba(not_yet_loaded):
    assert choose("auto", LARGE).__name__ == MODULE


def test_numba_that_is_there_already_takes_small_files_too(monkeypatch):
    monkeypatch.delenv("KRIMP_NUMBA", raising=False)
    assert choose("auto", 1) is by_numba


def test_the_environment_forbids_numba_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("KRIMP_NUMBA", "0")
    assert choose("auto", LARGE) is by_numpy
    assert choose("numba", LARGE) is by_numba


def test_without_numba_a_large_file_is_left_to_numpy(not_yet_loaded, monkeypatch):
    monkeypatch.setattr("compress.codec.kernels.choice.find_spec", lambda _: None)
    assert choose("auto", LARGE) is by_numpy


def test_numba_that_is_asked_for_and_missing_is_refused_with_advice(not_yet_loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)  # as if its import failed
    with pytest.raises(CodecError, match=r"kernels 'numba': cannot be imported .* install it or ask for 'numpy'"):
        choose("numba", 0)


def test_an_unknown_name_is_refused_at_every_door(tmp_path):
    save_file({"w": np.arange(999) % 7}, tmp_path / "w.safetensors")
    codec.pack_file(tmp_path / "w.safetensors", tmp_path / "w.krimp")
    for call in (
        lambda: codec.pack_file(tmp_path / "w.safetensors", tmp_path / "other.krimp", kernels="cuda"),
        lambda: codec.load(tmp_path / "w.krimp", kernels="cuda"),
        lambda: codec.unpack_bytes(tmp_path / "w.krimp", kernels="cuda"),
        lambda: codec.load_tensors(tmp_path / "w.krimp", kernels="cuda"),
        lambda: codec.PackedFile(tmp_path / "w.krimp", kernels="cuda"),
    ):
        with pytest.raises(ValueError, match=r"kernels 'cuda': unknown\. Expected one of 'auto', 'numpy', 'numba'"):
            call()
    assert not (tmp_path / "other.krimp").exists()
