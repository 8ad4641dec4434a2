"""Pruning to bytes and milliseconds that are measured on the int8 file."""

import pytest
import torch
from quantized_lookalike import Lookalike

from compress import codec
from compress.actions import deployed
from compress.actions.deployed import DeployedMeter, quantize_untrained
from compress.actions.prune_structured import meter_of
from compress.export import export_onnx
from compress.pruning.settings import PruningRules, PruningSettings
from compress.pruning.steps import prune_in_steps
from compress.stages.prune_structured import PruneStructured

torch.set_num_threads(1)
DETECTOR = Lookalike()


def _pruned(model, wanted, meter, **settings):
    return prune_in_steps(
        model,
        DETECTOR.example_input(1),
        wanted,
        steps=2,
        rules=PruningRules(DETECTOR.not_prunable(model), DETECTOR.custom_pruners(model)),
        settings=PruningSettings(cost_aware=True, **settings),
        widths={},
        losses=lambda _: (),
        after_step=lambda _: {},
        label="prune",
        meter=meter,
    )


@pytest.mark.long
def test_bytes_are_those_of_the_packed_int8_file(tmp_path):
    model = DETECTOR.build().eval()
    wanted, meter = meter_of(PruneStructured(target={"packed_bytes": 1}), model, DETECTOR, tmp_path / "measured")
    assert wanted == {"packed_bytes": 1}
    full = meter.costs(model)["packed_bytes"]
    result = _pruned(model, {"packed_bytes": 0.7 * full}, meter, round_to=4)
    export_onnx(quantize_untrained(model, DETECTOR), tmp_path / "m.onnx", detector=DETECTOR, names="full")
    real = codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp").packed_bytes
    assert result.reached["packed_bytes"].before == full
    assert result.reached["packed_bytes"].after == pytest.approx(real, rel=1e-6)
    assert real == pytest.approx(0.7 * full, rel=0.05)


@pytest.mark.long
def test_a_speedup_becomes_milliseconds_of_the_float_file(tmp_path):
    model = DETECTOR.build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = PruneStructured(target={"speedup": 4, "macs": 0.9})
    wanted, meter = meter_of(stage, model, DETECTOR, tmp_path / "measured")
    assert wanted.keys() == {"macs", "latency_ms"}
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )  # measuring changes nothing
    again = DeployedMeter(DETECTOR, tmp_path / "again", ["latency_ms"]).latency_for(2, model)
    assert again == pytest.approx(2 * wanted["latency_ms"], rel=0.5)  # a small network, a busy machine
    assert meter.costs(model)["latency_ms"] > 0


def test_networks_are_timed_in_turns_with_the_float_one_that_they_shall_be_faster_than(tmp_path, monkeypatch):
    def fastest(files, *_, **__):
        return {"": 10.0} if len(files) == 1 else {"float": 12.0, "": 6.0}  # the machine is slower by now

    monkeypatch.setattr(deployed, "fastest_ms", fastest)
    monkeypatch.setattr(deployed, "seconds_by_layer", lambda *_, **__: {})
    meter = DeployedMeter(DETECTOR, tmp_path, ["latency_ms"])
    monkeypatch.setattr(meter, "_export", lambda *_, **__: tmp_path)
    model = DETECTOR.build().eval()
    assert meter.latency_for(2, model) == 5
    assert meter.costs(model) == {"latency_ms": 5}  # half of what float takes beside it


def test_a_network_is_measured_once(tmp_path, monkeypatch):
    meter, made = DeployedMeter(DETECTOR, tmp_path, ["packed_bytes"]), []
    monkeypatch.setattr(meter, "_export", lambda *_, **__: made.append(1) or tmp_path)
    monkeypatch.setattr(meter, "_network", lambda *_: None)
    model = DETECTOR.build().eval()
    meter.measure(model)
    meter.measure(model)
    assert len(made) == meter.networks == 1
