"""The final network layer by layer: what each costs, what was done to it and how well it bears it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from compress.codec.files.inspection import TensorFacts
from compress.layer_names import layer_of
from compress.report.forecast import LayerForecast

BETWEEN = "between layers"  # what belongs to none: kernels between them, the graph, code tables


class LayerRow(BaseModel):
    """One layer of the final network; null means not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description=f"Of the module; '{BETWEEN}' is what belongs to none.")
    macs: int | None = None
    params: int | None = None
    bit_width: int | None = Field(None, description="Of its weights; 32 is float.")
    integer: bool | None = Field(None, description="Whether it is computed in integers.")
    zeros: float | None = Field(None, description="Share of zeros among its weights.")
    packed_bytes: int | None = Field(None, description="In the packed file.")
    latency_ms: float | None = Field(None, description="Of its kernels, each at its fastest, by the runtime's profile.")
    error: float | None = Field(
        None,
        description="Relative L2 distance of its output to that of the same layer before quantization, on images of "
        "'train', after the best gain of each channel: equalization changes their units.",
    )
    forecast_bytes: int | None = Field(None, description="packed_bytes as the forecast said.")
    forecast_ms: float | None = Field(None, description="latency_ms as the forecast said.")
    float_reason: str | None = Field(None, description="Why it is computed in float.")


@dataclass(frozen=True)
class LayerFacts:
    """What is known of the layers of one network, by name of the layer.

    Attributes:
        macs, params: counts.
        bit_widths: of the weights; of layers that have none it is 32.
        integer: whether it is computed in integers.
        zeros: share of zeros among the weights.
        errors: see `LayerRow.error`.
    """

    macs: Mapping[str, int]
    params: Mapping[str, int]
    bit_widths: Mapping[str, int] = field(default_factory=dict)
    integer: Mapping[str, bool] = field(default_factory=dict)
    zeros: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)


def layer_rows(
    facts: LayerFacts,
    *,
    packed_bytes: Mapping[str, int],
    seconds: Mapping[str, float],
    forecast: Sequence[LayerForecast],
    reasons: Mapping[str, str],
) -> list[LayerRow]:
    """Return a row a layer, in the order of the network, and one for what belongs to none.

    Args:
        facts: of the network.
        packed_bytes: see `bytes_by_layer`.
        seconds: of an image, by layer.
        forecast: of the same file.
        reasons: why layers are computed in float, by layer.
    """
    foreseen = {one.name: one for one in forecast}
    between = BETWEEN in packed_bytes or BETWEEN in seconds
    rows = []
    for name in [*facts.macs, *([BETWEEN] if between else [])]:
        said = foreseen.get(name)
        rows.append(
            LayerRow(
                name=name,
                macs=facts.macs.get(name),
                params=facts.params.get(name),
                bit_width=facts.bit_widths.get(name),
                integer=facts.integer.get(name),
                zeros=facts.zeros.get(name),
                packed_bytes=packed_bytes.get(name, 0) if packed_bytes else None,
                latency_ms=round(1e3 * seconds.get(name, 0.0), 4) if seconds else None,
                error=facts.errors.get(name),
                forecast_bytes=said.packed_bytes if said else None,
                forecast_ms=said.latency_ms if said else None,
                float_reason=reasons.get(name),
            )
        )
    return rows


def bytes_by_layer(
    tensors: Iterable[TensorFacts], names: Mapping[str, str], layers: Sequence[str], total: int
) -> dict[str, int]:
    """Return layer -> coded bytes of its tensors; `BETWEEN` is the rest of the file: graph, small tensors, tables.

    Args:
        tensors: of the packed file.
        names: short name -> full name of a tensor, where the file has short ones.
        layers: names of the layers.
        total: bytes of the file.
    """
    found: dict[str, int] = {}
    for tensor in tensors:
        layer = layer_of(names.get(tensor.name, tensor.name), layers)
        if layer:
            found[layer] = found.get(layer, 0) + tensor.packed_bytes
    return found | {BETWEEN: total - sum(found.values())}
