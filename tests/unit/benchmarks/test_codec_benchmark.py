"""The codec's benchmark: what it counts, what it calls met, and that every coder gives its input back."""

import importlib.util

import numpy as np
import pytest

from benchmarks import codec_coders, codec_measure, codec_weights
from benchmarks.codec_targets import verdicts


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    dense = np.round(rng.laplace(0, 9, (16, 60))).clip(-127, 127).astype(np.int8)
    return [dense, np.where(rng.random((8, 40)) < 0.8, 0, 5).astype(np.int8), np.zeros((4, 40), dtype=np.int8)]


@pytest.mark.parametrize("coder", codec_coders.all_coders(), ids=lambda coder: coder.name)
def test_every_coder_gives_its_input_back(coder, tensors):
    if coder.missing:
        pytest.skip(coder.missing)
    coded = coder.encode(tensors)
    assert codec_coders.same_values(coder.decode(coded, tensors), tensors)
    assert 0 < coder.num_bytes(coded) < 2 * sum(tensor.size for tensor in tensors)


def test_a_coder_that_cannot_be_loaded_stays_in_the_list_with_the_reason(monkeypatch):
    monkeypatch.setattr(codec_coders, "_zstd", lambda level: importlib.import_module("no_such_package"))
    missing = {coder.name: coder.missing for coder in codec_coders.all_coders() if coder.name.startswith("zstd")}
    assert set(missing) == {"zstd -1", "zstd -3", "zstd -19"}
    assert all("no_such_package" in reason for reason in missing.values())


def test_a_coder_that_changes_a_weight_is_caught(tensors):
    def one_off(_, given):
        return [given[0] + 1, *given[1:]]

    broken = codec_coders.Coder("broken", lambda given: b"", len, one_off)
    weights = codec_weights.Weights("w", 8, 0.0, tuple(tensors))
    with pytest.raises(ValueError, match="broken does not give back"):
        codec_measure.sizes(weights, [broken], {})


def test_known_sizes_are_used_for_others_and_never_for_krimp(tensors):
    weights = codec_weights.Weights("w", 8, 0.0, tuple(tensors))
    chosen = [coder for coder in codec_coders.all_coders() if coder.name in ("Krimp", "xz -9")]
    row = codec_measure.sizes(weights, chosen, {})
    again = codec_measure.sizes(weights, chosen, {row["digest"]: {"Krimp": 1, "xz -9": 2}})
    assert again["bytes"] == {"Krimp": row["bytes"]["Krimp"], "xz -9": 2}


def test_entropy_of_a_fair_coin_is_a_bit_a_weight():
    assert codec_coders.entropy_bytes([np.array([[0, 1] * 400], dtype=np.int8)]) == pytest.approx(100)


@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_quantization_is_symmetric_and_reaches_its_range_in_every_channel(bit_width):
    matrix = np.random.default_rng(0).standard_normal((10, 300)).astype(np.float32)
    integers = codec_weights.quantize(matrix, bit_width)
    assert (np.abs(integers.astype(int)).max(axis=1) == 2 ** (bit_width - 1) - 1).all()
    top = np.abs(matrix).max(axis=1, keepdims=True) / (2 ** (bit_width - 1) - 1)
    assert (np.abs(integers * top - matrix) <= top / 2 + 1e-6).all()


def test_pruning_reaches_the_share_and_keeps_the_largest():
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((20, 50)).astype(np.float32) * scale for scale in (1, 30)]
    pruned = codec_weights.prune(matrices, 0.7)
    assert np.mean([(matrix == 0).mean() for matrix in pruned]) == pytest.approx(0.7, abs=0.01)
    for matrix, kept in zip(matrices, pruned, strict=True):
        assert np.array_equal(kept.max(axis=1), matrix.max(axis=1))


def speed(krimp, zstd):
    coders = {"Krimp": krimp, "Krimp, NumPy alone": 41, "zstd -3": zstd, "constriction ANS": 40}
    return {
        "bit_width": 8,
        "zeros": 0.0,
        "coders": {
            name: {what: {"msym_per_s": value} for what in ("encode", "decode")} for name, value in coders.items()
        },
    }


def row(count, krimp, nncodec=None):
    sizes = {"Krimp": krimp} | ({"NNCodec optimized": nncodec} if nncodec else {})
    common = {"weights": "w", "bit_width": 8, "zeros": 0.0}
    return common | {"count": count, "entropy_bytes": 1_000_000, "bytes": sizes}


def judged(**parts):
    empty = {"synthetic_sizes": [], "tensor_sizes": [], "real_sizes": [], "files": [], "speeds": []}
    empty |= {"loading": [], "memory": []}
    return {verdict["target"]: verdict for verdict in verdicts(empty | parts)}


def only(found, words):
    (verdict,) = [verdict for target, verdict in found.items() if words in target]
    return verdict


def test_nothing_measured_means_nothing_met():
    assert all(verdict["met"] is None for verdict in judged().values())


@pytest.mark.parametrize(("krimp", "met"), [(1_009_999, True), (1_010_001, False)])
def test_large_tensors_may_be_a_percent_above_the_entropy(krimp, met):
    assert only(judged(synthetic_sizes=[row(1_000_000, krimp)]), "a million weights")["met"] is met


@pytest.mark.parametrize(("krimp", "met"), [(1_010_256, True), (1_010_257, False)])
def test_small_tensors_may_have_256_bytes_more(krimp, met):
    assert only(judged(tensor_sizes=[row(65_536, krimp)]), "65,536")["met"] is met


@pytest.mark.parametrize(("krimp", "met"), [(1_009_999, True), (1_010_001, False)])
def test_nncodec_may_be_a_percent_smaller(krimp, met):
    verdict = only(judged(real_sizes=[row(500, krimp, 1_000_000)]), "5 bits and more")
    assert verdict["met"] is met


def test_speeds_are_judged_by_the_worst_case():
    found = judged(speeds=[speed(600, 1000), speed(450, 1000)])
    assert only(found, "dense 8-bit")["met"] is False
    assert "450" in only(found, "dense 8-bit")["measured"]
    assert only(found, "zstd -3")["met"] is False
    assert only(found, "constriction")["met"] is True
    assert only(found, "10x NNCodec")["met"] is None


@pytest.mark.parametrize(("added", "met"), [(164 << 20, True), ((164 << 20) + 1, False)])
def test_a_large_tensor_may_take_64_mb_beside_itself_whoever_decodes_it(added, met):
    least, most = ({"original_bytes": 100 << 20, "added_bytes": value} for value in (101 << 20, added))
    row = {"name": "t", "elements": 10**8, "numba": least, "NumPy alone": most}
    assert only(judged(memory=[row]), "one large tensor")["met"] is met
