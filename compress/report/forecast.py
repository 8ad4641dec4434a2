"""What a plan should leave, as data and in words, and how far off it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from compress.number_text import count_text, fixed_text, size_text

_SHOWN = 8  # layers
DASH = "-"


class LayerForecast(BaseModel):
    """What one layer of the last model would cost; the row 'between layers' is what belongs to none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    params: int
    macs: int
    packed_bytes: int | None = Field(description="By the entropy of its constants; null where a size is asked for.")
    latency_ms: float


class ModelForecast(BaseModel):
    """What one exported model would cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(description="Of the stage that exports it.")
    params: int
    macs: int
    packed_bytes: int
    asked_bytes: bool = Field(description="Whether packed_bytes is what the recipe asks for.")
    latency_ms: float = Field(description="Fastest of some images, network only.")
    layers: list[LayerForecast] = Field(description="Of the last model; empty of the others.")


class GroupForecast(BaseModel):
    """Layers that lose the same channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str = Field(description="The layer that the group is called by.")
    layers: int = Field(description="How many lose output channels.")
    width: int
    narrowest: int = Field(description="That the stage's limits allow.")
    macs_a_channel: int = Field(description="That a channel frees, on the way to the narrowest.")


class BudgetForecast(BaseModel):
    """What pruning to a share of the MACs would leave, by what two measured networks tell of each layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: float = Field(description="Share of the network that the first pruning is given.")
    params: int
    packed_bytes: int = Field(description="Of the int8 file, untrained, full names in it.")
    latency_ms: float = Field(description="Of the int8 file.")


class Forecast(BaseModel):
    """What a plan would leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str = Field(description="'checkpoint', or 'fresh': then bytes are those of weights that learnt nothing.")
    threads: int = Field(description="Of ONNX Runtime; 0 is one per core.")
    cpu: str
    models: list[ModelForecast]
    unfused: list[dict[str, str]] = Field(description="Layers of the last model that run in float: layer and reason.")
    groups: list[GroupForecast] = Field(default_factory=list, description="That the first pruning may narrow.")
    budgets: list[BudgetForecast] = Field(default_factory=list, description="As it is first; empty without pruning.")

    @property
    def tells_bytes(self) -> bool:
        """Return whether bytes mean anything: weights that learnt nothing are spread otherwise."""
        return self.weights == "checkpoint"

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(found: Forecast) -> list[str]:
    of = "the checkpoint's weights" if found.tells_bytes else "fresh weights, so no bytes but those asked for"
    threads = "a thread a core" if found.threads == 0 else f"{found.threads} thread{'s' * (found.threads > 1)}"
    lines = [f"forecast ({of}, nothing trained; {threads}, {found.cpu}):"]
    head = ["", "params", "MACs", "packed", "latency"]
    lines += _table([head, *(_model_cells(one, found) for one in found.models)])
    if not found.models:
        return lines
    last = found.models[-1]
    lines += ["", f"  of {last.label}, by part:"]
    lines += _table([head, *(_cells(part, found) for part in by_part(last.layers))])
    costly = sorted(last.layers, key=lambda layer: -layer.latency_ms)[:_SHOWN]
    lines += ["", "  layers that take longest:"]
    lines += _table([head, *(_cells(layer, found) for layer in costly)])
    if found.budgets:
        lines += ["", *_budget_lines(found)]
    if found.unfused:
        lines += ["", "  run in float:", *(f"    {one['layer']}: {one['reason']}" for one in found.unfused)]
    return lines


def by_part(layers: Sequence[LayerForecast]) -> list[LayerForecast]:
    """Return the sums over layers whose names begin alike (backbone, neck, head)."""
    together: dict[str, list[LayerForecast]] = {}
    for layer in layers:
        together.setdefault(layer.name.split(".")[0], []).append(layer)
    return [
        LayerForecast(
            name=name,
            params=sum(one.params for one in part),
            macs=sum(one.macs for one in part),
            packed_bytes=None
            if any(one.packed_bytes is None for one in part)
            else sum(one.packed_bytes or 0 for one in part),
            latency_ms=sum(one.latency_ms for one in part),
        )
        for name, part in together.items()
    ]


def _model_cells(one: ModelForecast, found: Forecast) -> list[str]:
    size = size_text(one.packed_bytes) if found.tells_bytes else DASH
    if one.asked_bytes:
        size = f"{size_text(one.packed_bytes)} (asked for)"
    return [one.label, count_text(one.params), count_text(one.macs), size, f"{one.latency_ms:.1f} ms"]


def _cells(one: LayerForecast, found: Forecast) -> list[str]:
    size = size_text(one.packed_bytes) if found.tells_bytes and one.packed_bytes is not None else DASH
    return [one.name, count_text(one.params), count_text(one.macs), size, f"{one.latency_ms:.2f} ms"]


def _budget_lines(found: Forecast) -> list[str]:
    """Say which channels can go, and what that would leave."""
    channels, free, layers = (
        sum(of(one) for one in found.groups)
        for of in (lambda one: one.width, lambda one: one.width - one.narrowest, lambda one: one.layers)
    )
    costly = sorted(found.groups, key=lambda one: -one.macs_a_channel * (one.width - one.narrowest))[:_SHOWN]
    head = ["group", "layers", "channels", "narrowest", "MACs a channel"]
    budgets = [["MACs", "params", "packed", "latency"], *(_budget_cells(one, found) for one in found.budgets)]
    return [
        f"  {free:,} of {channels:,} channels in {len(found.groups)} groups of {layers} layers can go, most MACs with:",
        *_table([head, *map(_group_cells, costly)]),
        "",
        "  what budgets would leave, in int8, untrained:",
        *_table(budgets),
    ]


def _group_cells(one: GroupForecast) -> list[str]:
    return [one.root, str(one.layers), str(one.width), str(one.narrowest), count_text(one.macs_a_channel)]


def _budget_cells(one: BudgetForecast, found: Forecast) -> list[str]:
    size = size_text(one.packed_bytes) if found.tells_bytes else DASH
    return [f"{one.macs:.0%}", count_text(one.params), size, f"{one.latency_ms:.1f} ms"]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "    "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


class ForecastCheck(BaseModel):
    """A number of the forecast beside what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Label of the stage that exports it.")
    what: str = Field(description="'packed_bytes' or 'latency_ms'.")
    forecast: float
    measured: float

    @property
    def off(self) -> float:
        """Return measured / forecast - 1."""
        return self.measured / self.forecast - 1


def compared(found: Forecast, measured: Mapping[str, Mapping[str, float | None]]) -> list[ForecastCheck]:
    """Return forecast beside measurement, as far as there is one.

    Args:
        found: the forecast.
        measured: label of an exporting stage -> `packed_bytes` and `latency_ms`, null where not measured.
    """
    return [
        ForecastCheck(model=one.label, what=what, forecast=value, measured=real)
        for one in found.models
        for what, value in (("packed_bytes", float(one.packed_bytes)), ("latency_ms", one.latency_ms))
        if (real := measured.get(one.label, {}).get(what)) is not None
        and value > 0
        and (what != "packed_bytes" or found.tells_bytes or one.asked_bytes)
    ]


def check_rows(checks: Sequence[ForecastCheck]) -> list[list[str]]:
    """Return a table, its head first, of what the plan should leave beside what it left."""
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "packed_bytes": ("bytes, packed", lambda value: size_text(round(value))),
        "latency_ms": ("latency p50", lambda value: fixed_text(value, 1, " ms")),
    }
    rows = [["model", "what", "forecast", "measured", "off"]]
    for check in checks:
        name, text = shown[check.what]
        rows.append([check.model, name, text(check.forecast), text(check.measured), f"{check.off:+.1%}"])
    return rows
