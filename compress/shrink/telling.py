"""The report of a small file: what it is, what it lost, why it looks as it does, and what was not proven."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.markdown_text import cell, code, link
from compress.number_text import duration_text, size_text
from compress.shrink.given.form import GivenForm
from compress.shrink.judge import Judge
from compress.shrink.judge.verdict import Verdict
from compress.shrink.limits import Limits
from compress.shrink.network import Network
from compress.shrink.pictures import Preprocessing
from compress.shrink.shrinking import Chosen, Made
from compress.shrink.target import Target

FORMAT_VERSION = 1
_WORST = 12  # tensors that are shown
_UNITS = {"labels": "points of mAP50-95", "agreement": "points of mAP50-95", "outputs": "percent of the outputs"}


@dataclass(frozen=True)
class Told:
    """All that a report is made of.

    Attributes:
        model: the user's file, of `float_bytes`.
        small_bytes, packed_bytes: of the small file, and packed.
        packed_as_given_bytes: of the user's file packed without loss, if it was quantized already; else None.
        network: float.
        preprocessing: of pictures; None for arrays.
        learnt: pictures that were learnt from.
        judge: who judged.
        chosen: the form.
        taken: the network.
        curve: all that were judged.
        limits: what was asked for.
        target: where it will run.
        latency: float and small in turns; None if not measured here.
        cpu, threads: that it was measured on.
        seconds: that all took.
        names: short name -> name of what is in the small file.
    """

    model: Path
    float_bytes: int
    small_bytes: int
    packed_bytes: int
    packed_as_given_bytes: int | None
    network: Network
    preprocessing: Preprocessing | None
    learnt: int
    judge: Judge
    chosen: Chosen
    taken: Made
    curve: Sequence[Made]
    limits: Limits
    target: Target
    latency: Mapping[str, Any] | None
    cpu: str
    threads: int
    seconds: float
    names: Mapping[str, str]


@dataclass(frozen=True)
class Document:
    """The report as data and as its JSON."""

    data: dict[str, Any]
    text: str


def document(told: Told) -> Document:
    """Return the report for programs."""
    chosen = told.chosen
    data = {
        "format_version": FORMAT_VERSION,
        "model": told.model.name,
        "float_bytes": told.float_bytes,
        "small_bytes": told.small_bytes,
        "packed_bytes": told.packed_bytes,
        "packed_as_given_bytes": told.packed_as_given_bytes,
        "ratio": told.float_bytes / told.packed_bytes,
        "judge": {"kind": told.judge.kind, "unit": _UNITS[told.judge.kind], "told": told.judge.told},
        "verdict": _verdict(told.taken.verdict),
        "limits": {"packed_bytes": told.limits.packed_bytes, "max_drop": told.limits.max_drop},
        "form": {
            "integers": chosen.form.integers,
            "quantized_before": list(chosen.form.ops) if isinstance(chosen.form, GivenForm) else None,
            "left": dict(chosen.form.left) if isinstance(chosen.form, GivenForm) else {},
            "floating": sorted(chosen.form.floating),
            "why": chosen.why,
            "float_ms": chosen.float_ms,
            "integers_ms": chosen.integers_ms,
            "kernels": {name: dict(one) for name, one in chosen.kernels.items()},
            "costs": dict(chosen.costs),
        },
        "target": {"name": told.target.name, "told": told.target.told},
        "latency": told.latency,
        "cpu": told.cpu,
        "threads": told.threads,
        "preprocessing": None if told.preprocessing is None else str(told.preprocessing),
        "learnt_pictures": told.learnt,
        "curve": [
            {"price": one.price, "packed_bytes": one.packed_bytes, "verdict": _verdict(one.verdict)}
            for one in sorted(told.curve, key=lambda one: one.packed_bytes)
        ],
        "seconds": told.seconds,
        "names": dict(told.names),
    }
    data = _plain(data)
    return Document(data, json.dumps(data, indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """Return data as JSON has it: what is no finite number becomes null."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _verdict(one: Verdict) -> dict[str, Any]:
    return {
        "loss": one.loss,
        "low": one.low,
        "high": one.high,
        "metrics": dict(one.metrics),
        "relative_errors": dict(one.relative_errors),
        "cosines": dict(one.cosines),
        "problem": one.problem,
    }


def text(told: Told, picture: Path | None) -> str:
    """Return the report for people, as markdown.

    Args:
        told: all of it.
        picture: file beside it that shows how pictures enter.
    """
    parts = [_head(told), _how_pictures_enter(told, picture), _curve(told), _form(told), _outputs(told), _rest(told)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(told: Told) -> str:
    ratio = told.float_bytes / told.packed_bytes
    lines = [
        f"# {cell(told.model.stem)}: {size_text(told.packed_bytes)}, {ratio:.1f} times smaller",
        "",
        f"{size_text(told.float_bytes)} before; {size_text(told.small_bytes)} as ONNX, {size_text(told.packed_bytes)} "
        f"packed. Lost: {told.taken.verdict}.",
    ]
    if told.packed_as_given_bytes is not None:
        lines.append(f"{size_text(told.packed_as_given_bytes)} packed as it was, without loss.")
    if told.latency is not None:
        models, ratios = told.latency["models"], told.latency["ratios"]["small"]
        before, after = (models[name]["latency_ms_p50"] for name in ("float", "small"))
        lines.append(
            f"{before:.1f} ms before, {after:.1f} ms now: {ratios['speedup_p50']:.2f} times as fast "
            f"({ratios['speedup_low']:.2f} to {ratios['speedup_high']:.2f}; in turns, {told.cpu}, "
            f"{told.threads or 'all'} thread{'' if told.threads == 1 else 's'})."
        )
    else:
        lines.append(f"How fast it is was not measured: {told.target.name} cannot be run here.")
    asked = str(told.limits) or "no limit: the knee of the curve was taken"
    lines += [f"Asked for: {asked}.", "", f"Judged by {told.judge.kind}: {cell(told.judge.told)}"]
    return "\n".join(lines)


def _how_pictures_enter(told: Told, picture: Path | None) -> str:
    if told.preprocessing is None:
        return f"Learnt from {told.learnt} archives of arrays."
    shown = f"\n\n![the picture, and as it enters]({link(picture.name)})" if picture is not None else ""
    return (
        "## How pictures enter\n\n"
        f"{told.preprocessing}; learnt from {told.learnt} pictures. If this is not how the network was trained, every "
        f"number here is of another network: `--mean --std --scale --bgr --fit --size`.{shown}"
    )


def _curve(told: Told) -> str:
    unit = _UNITS[told.judge.kind]
    rows = [f"| packed | times smaller | lost, {unit} | relative error of outputs |", "|---|---|---|---|"]
    for one in sorted(told.curve, key=lambda one: -one.packed_bytes):
        mark = " **taken**" if one is told.taken else ""
        verdict = one.verdict
        between = "" if verdict.low is None else f" ({verdict.low:.2f} to {verdict.high:.2f})"
        ratio = told.float_bytes / one.packed_bytes
        rows.append(
            f"| {size_text(one.packed_bytes)}{mark} | {ratio:.1f} | {verdict.loss:.2f}{between} | {one.error:.4f} |"
        )
    return "## What a byte costs\n\n" + "\n".join(rows)


def _form(told: Told) -> str:
    chosen = told.chosen
    if isinstance(chosen.form, GivenForm):
        what = ""
    elif chosen.form.integers:
        count = len(chosen.form.floating)
        what = f"It computes in integers, but for {count} of {len(told.network.nodes)} nodes. "
    else:
        what = "It computes in float; its weights are integers. "
    lines = [
        "## What it computes in",
        "",
        f"{what}{cell(chosen.why)}. Target {told.target.name}: {told.target.told}.",
    ]
    if chosen.tried:
        lines += ["", "| tensors kept in float | distance of the outputs | lost |", "|---|---|---|"]
        lines += [f"| {len(one.tensors)} | {one.error:.4g} | {one.verdict or ''} |" for one in chosen.tried]
    worst = sorted(chosen.costs.items(), key=lambda one: -one[1])[:_WORST]
    if worst:
        kept = {name for one in chosen.tried if one.nodes == chosen.form.floating for name in one.tensors}
        lines += ["", "| rounded alone | costs | |", "|---|---|---|"]
        lines += [f"| {code(name)} | {cost:.3g} | {'stays float' if name in kept else ''} |" for name, cost in worst]
    if chosen.kernels:
        ops = dict.fromkeys(op for one in ("integers", "float") for op in chosen.kernels[one])
        lines += ["", "| kernel | ms in float | ms in integers |", "|---|---|---|"]
        for op in list(ops)[:_WORST]:
            before, after = (chosen.kernels[name].get(op, 0.0) for name in ("float", "integers"))
            lines.append(f"| {cell(op)} | {before:.2f} | {after:.2f} |")
    return "\n".join(lines)


def _outputs(told: Told) -> str:
    verdict = told.taken.verdict
    rows = ["## Outputs", "", "| output | relative error | cosine |", "|---|---|---|"]
    for name, error in verdict.relative_errors.items():
        rows.append(f"| {code(name)} | {error:.4f} | {verdict.cosines[name]:.5f} |")
    return "\n".join(rows)


def _rest(told: Told) -> str:
    return (
        f"Made in {duration_text(told.seconds)}. All numbers, and the names that were shortened: the JSON beside this."
    )
