"""The codec's targets, each against the numbers of a run: met or missed, with the number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

MIB = 1 << 20
_LARGE_NETWORK = 30_000_000  # weights


@dataclass(frozen=True)
class Verdict:
    """One target.

    Attributes:
        target: what was promised.
        measured: the worst number of this run, in words.
        met: True, False, or None if it could not be measured here.
        where: the case that gave the number.
    """

    target: str
    measured: str
    met: bool | None
    where: str = ""

    def line(self) -> str:
        """Return it as a line of a table."""
        mark = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"{mark:12} {self.target}: {self.measured}" + (f" ({self.where})" if self.where else "")


def verdicts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every target's verdict for the record of a run."""
    return [asdict(verdict) for verdict in _all(record)]


def _all(record: dict[str, Any]) -> Iterator[Verdict]:
    yield _over_entropy(record)
    yield _over_entropy_small(record)
    yield from _whole_files(record)
    yield from _against_nncodec(record)
    yield from _speeds(record)
    yield from _loading(record)


def _label(row: dict[str, Any]) -> str:
    return f"{row['weights']}, {row['bit_width']} bits, {row['zeros']:.0%} zeros, {row['count']:,} weights"


def _single(record: dict[str, Any], at_least: int, below: float = float("inf")) -> list[dict[str, Any]]:
    rows = record["synthetic_sizes"] + record["tensor_sizes"]
    return [row for row in rows if at_least <= row["count"] < below]


def _over_entropy(record: dict[str, Any]) -> Verdict:
    target = (
        "tensors of a million weights: at most 1 % above order-0 entropy, all but the original's own header counted"
    )
    rows = _single(record, 1_000_000)
    if not rows:
        return Verdict(target, "no such tensor in this run", None)
    over = {_label(row): row["bytes"]["Krimp"] / row["entropy_bytes"] - 1 for row in rows}
    worst = max(over, key=lambda name: over[name])
    return Verdict(target, _worst(over, "{:+.2%}", 0.01), over[worst] <= 0.01, worst)


def _over_entropy_small(record: dict[str, Any]) -> Verdict:
    target = "tensors from 65,536 weights: at most 1 % + 256 bytes above order-0 entropy"
    rows = _single(record, 65_536, 1_000_000)
    if not rows:
        return Verdict(target, "no such tensor in this run", None)
    over = {_label(row): row["bytes"]["Krimp"] - 1.01 * row["entropy_bytes"] for row in rows}
    worst = max(over, key=lambda name: over[name])
    return Verdict(target, _worst(over, "1 % and {:+.0f} bytes", 256), over[worst] <= 256, worst)


def _worst(values: dict[str, float], form: str, limit: float) -> str:
    missed = sum(value > limit for value in values.values())
    return f"worst {form.format(max(values.values()))}; {len(values) - missed} of {len(values)} cases within"


def _whole_files(record: dict[str, Any]) -> Iterator[Verdict]:
    for rival in ("zstd -19", "xz -9", "ZipNN"):
        target = f"whole ONNX file smaller than {rival}"
        shares = {
            row["file"]: row["bytes"]["Krimp"] / row["bytes"][rival]
            for row in record["files"]
            if rival in row["bytes"] and not row["file"].startswith("float")
        }
        if not shares:
            yield Verdict(target, "no such file in this run, or it is not installed", None)
            continue
        worst = max(shares, key=lambda name: shares[name])
        yield Verdict(target, f"at most {shares[worst]:.1%} of its size", shares[worst] < 1, worst)


def _against_nncodec(record: dict[str, Any]) -> Iterator[Verdict]:
    rival = "NNCodec optimized"
    cases = [
        (_label(row), row["bit_width"], row["bytes"]["Krimp"] / row["bytes"][rival] - 1)
        for row in record["real_sizes"] + _single(record, 1_000_000)
        if rival in row["bytes"]
    ] + [
        (row["file"], row["integers"]["bit_width"], row["integers"]["Krimp"] / row["integers"][rival] - 1)
        for row in record["files"]
        if rival in row["integers"]
    ]
    for limit, chosen, what in (
        (0.01, [case for case in cases if case[1] > 4], "5 bits and more"),
        (0.02, [case for case in cases if case[1] <= 4], "4 bits and fewer"),
    ):
        target = f"{what}: at most {limit:.0%} larger than NNCodec's coding of the same integers"
        if not chosen:
            yield Verdict(target, "no such weights in this run, or NNCodec is not installed", None)
            continue
        over = {name: value for name, _, value in chosen}
        worst = max(over, key=lambda name: over[name])
        yield Verdict(target, _worst(over, "{:+.2%}", limit), over[worst] <= limit, worst)


def _speeds(record: dict[str, Any]) -> Iterator[Verdict]:
    def speed(row: dict[str, Any], coder: str, what: str) -> float | None:
        return row["coders"][coder][what]["msym_per_s"] if coder in row["coders"] else None

    def where(row: dict[str, Any]) -> str:
        return f"{row['bit_width']} bits, {row['zeros']:.0%} zeros"

    dense = [row for row in record["speeds"] if row["zeros"] == 0 and row["bit_width"] == 8]
    masked = [row for row in record["speeds"] if row["zeros"] >= 0.5]
    for target, rows, coder, what, limit in (
        ("decode of dense 8-bit weights, numba: at least 500 Msym/s", dense, "Krimp", "decode", 500),
        ("decode of masked weights, numba: at least 250 Msym/s", masked, "Krimp", "decode", 250),
        ("decode with NumPy alone: at least 40 Msym/s", record["speeds"], "Krimp, NumPy alone", "decode", 40),
        ("encode, numba: at least 150 Msym/s", record["speeds"], "Krimp", "encode", 150),
    ):
        found = {where(row): value for row in rows if (value := speed(row, coder, what)) is not None}
        if not found:
            yield Verdict(target, "no such weights in this run", None)
            continue
        worst = min(found, key=lambda name: found[name])
        yield Verdict(target, f"{found[worst]:.0f} Msym/s", found[worst] >= limit, worst)
    for target, rival, share in (
        ("decode at least half as fast as zstd -3", "zstd -3", 0.5),
        ("decode at least 10x constriction's ANS", "constriction ANS", 10),
        ("decode at least 10x NNCodec", "NNCodec", 10),
    ):
        ratios = {
            where(row): ours / theirs
            for row in record["speeds"]
            if (ours := speed(row, "Krimp", "decode")) and (theirs := speed(row, rival, "decode"))
        }
        if not ratios:
            yield Verdict(target, f"{rival} is not installed", None)
            continue
        worst = min(ratios, key=lambda name: ratios[name])
        yield Verdict(target, f"{ratios[worst]:.2f}x", ratios[worst] >= share, worst)


def _loading(record: dict[str, Any]) -> Iterator[Verdict]:
    for row in record["loading"]:
        where = f"{row['name']}, {row['weights'] / 1e6:.1f} M weights"
        plain, whole, check = (row[name]["cpu_s_p50"] for name in ("plain", "krimp_with_hash", "hash"))
        ratio = (whole - check) / plain
        yield Verdict(
            "file to ONNX Runtime session, hash check apart: at most 1.3x the plain file",
            f"{ratio:.2f}x ({whole - check:.3f} s against {plain:.3f} s; hash check {check:.3f} s)",
            ratio <= 1.3 if row["weights"] >= _LARGE_NETWORK else None,  # the target is for 36 M weights
            where,
        )
        extra = row["memory"]["added_bytes"] - row["memory"]["original_bytes"]
        yield Verdict(
            "memory of loading: at most the decoded file + 64 MB",
            f"decoded file {extra / MIB:+.0f} MB",
            extra <= 64 * MIB,
            where,
        )
    for row in record["memory"]:
        added = {way: row[way]["added_bytes"] - row[way]["original_bytes"] for way in ("numba", "NumPy alone")}
        worst = max(added, key=lambda way: added[way])
        yield Verdict(
            "memory of loading one large tensor: at most the decoded file + 64 MB",
            f"decoded file {added[worst] / MIB:+.0f} MB ({worst})",
            added[worst] <= 64 * MIB,
            f"{row['name']}, {row['elements'] / 1e6:.0f} M elements",
        )
