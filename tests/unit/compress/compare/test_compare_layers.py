"""Which tensors are one layer, and what is told of two layers that differ."""

from dataclasses import replace

import pytest

from compress.codec import TensorFacts
from compress.compare.layers import REST, Layer, group_layers, layer_changes, share_names

FACTS = TensorFacts("", (4, 3), "int8", 12, 6, 0.25, 2.0, 2.5, 12, 10, 0.1, "huffman")


def facts(*names):
    return [replace(FACTS, name=name, packed_bytes=size, bit_width=bits) for name, size, bits in names]


def test_scales_and_biases_belong_to_their_weight_and_short_names_become_full_ones():
    found = group_layers(
        facts(("a", 5, 32), ("b", 100, 6), ("c", 7, 32), ("head.cls.prior", 3, 32), ("head.cls.out.weight", 50, 4)),
        {"a": "head.cls.weight_scale", "b": "head.cls.weight", "c": "head.cls.bias"},
        200,
    )
    assert [(one.name, one.num_bytes, one.bit_width) for one in found] == [
        ("head.cls", 115, 6),  # the bits are those of the weight, wherever it stands
        ("head.cls.out", 50, 4),
        (REST, 35, 0),
    ]


def test_a_tensor_without_a_weight_beside_it_is_a_layer_of_its_own():
    found = group_layers(facts(("onnx::Conv_12", 5, 32), ("Constant", 6, 32)), {}, 11)
    assert [one.name for one in found] == ["onnx::Conv_12", "Constant", REST]


LAYER = Layer("conv", (16, 8, 3, 3), 8, 0.1, 4.0, 100)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            replace(LAYER, dims=(8, 8, 3, 3), bit_width=6, zeros=0.5),
            "shape 16x8x3x3 -> 8x8x3x3, bits 8 -> 6, zeros 10.0% -> 50.0%",
        ),
        (replace(LAYER, entropy_bits=4.1), "values"),
        (replace(LAYER, num_bytes=90), "size"),
    ],
)
def test_what_changed_is_told(other, told):
    (change,) = layer_changes([LAYER], [other])
    assert change.told == told


def test_layers_come_by_bytes_and_those_that_are_new_or_gone_are_named():
    gone, new, small = (
        replace(LAYER, name="gone"),
        replace(LAYER, name="new", num_bytes=300),
        replace(LAYER, num_bytes=99),
    )
    found = layer_changes([LAYER, gone], [small, new])
    assert [(one.name, one.told, one.num_bytes) for one in found] == [
        ("new", "is new", 300),
        ("gone", "is gone", -100),
        ("conv", "size", -1),
    ]
    assert layer_changes([LAYER, gone], [gone, LAYER]) == []


def test_files_that_name_their_layers_otherwise_are_known():
    full = [replace(LAYER, name=f"backbone.conv{number}") for number in range(8)]
    short = [replace(LAYER, name=f"c{number}") for number in range(8)]
    rest = Layer(REST, (), 0, 0.0, 0.0, 5)
    assert share_names(full, full[:3])
    assert not share_names([*full, rest], [*short, rest])
