"""Bit widths: which layer gets how many, and what a CPU without VNNI refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from compress.quantization import QuantizationSettings


def test_eight_bit_weights_are_refused_for_avx2_and_the_way_out_is_named():
    with pytest.raises(ValidationError, match="target: vnni"):
        QuantizationSettings(weight_bit_width=8)


@pytest.mark.parametrize("target", ["vnni", "arm"])
def test_eight_bit_weights_are_fine_on_other_targets(target):
    assert QuantizationSettings(weight_bit_width=8, target=target).weight_bit_width == 8


def test_default_fits_avx2():
    assert QuantizationSettings().weight_bit_width == 7


def test_float_island_has_its_own_bit_width():
    assert QuantizationSettings(weight_bit_width=4).bit_width("a", "island") == 8


def test_stem_and_depthwise_layers_keep_more_bits_than_the_others():
    settings = QuantizationSettings(weight_bit_width=4)
    assert [settings.bit_width("a", role) for role in ("plain", "stem", "depthwise")] == [4, 7, 8]


def test_last_matching_glob_wins():
    settings = QuantizationSettings(layer_bit_widths={"backbone.*": 5, "backbone.stem.0": 6})
    assert settings.bit_width("backbone.stem.0", "stem") == 6
    assert settings.bit_width("backbone.down.0", "plain") == 5
    assert settings.bit_width("head.first", "plain") == 7


@pytest.mark.parametrize("bits", [1, 9])
def test_bit_widths_outside_two_to_eight_are_refused(bits):
    with pytest.raises(ValidationError):
        QuantizationSettings(layer_bit_widths={"a": bits})


def test_settings_and_stages_import_without_torch():
    code = (
        "import sys, compress.quantization, compress.stages.qat, compress.stages.export_onnx;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'brevitas', 'onnx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
