"""The Brevitas modules that a quantized graph is made of.

Weights: symmetric integers, narrow range, a scale per output channel taken from the largest weight.
Activations: uint8 per tensor, zero point 0 after a ReLU, asymmetric elsewhere. Signed activations are
not offered: ONNX Runtime runs them slower than float on AVX2 (51 ms against 43.9, uint8 25.2).

In training these modules simulate rounding in float, with gradients that pass straight through. In
evaluation they compute what the runtime computes, integer for integer, without gradients through the
rounding; see `integer_arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from brevitas import nn as qnn
from brevitas.quant.scaled_int import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat
from torch import Tensor, nn

from compress.quantization import integer_arithmetic as arithmetic
from compress.quantization.integer_arithmetic import LARGEST_CODE

ACTIVATION_BIT_WIDTH = 8
STEP, BIAS_UNIT = "weight_step", "bias_unit"  # buffers of layers whose steps are fixed
LEAST_SCALE = 1e-6  # of a dead activation; anything smaller overflows the int32 bias


class ActivationQuantizer(qnn.QuantIdentity):  # type: ignore[misc]  # brevitas has no types
    """Rounds a tensor to uint8 levels; one for each tensor of the graph.

    Attributes:
        upper: largest value that the tensor can have (6 after ReLU6), or None. The range never grows
            beyond it, so the runtime can leave the clip to the saturation of the integer type.
    """

    def __init__(self, *, unsigned: bool, upper: float | None, percentile: float, learn_range: bool) -> None:
        quantizer: Any = Uint8ActPerTensorFloat if unsigned else ShiftedUint8ActPerTensorFloat
        super().__init__(
            act_quant=quantizer.let(scaling_min_val=LEAST_SCALE),
            bit_width=ACTIVATION_BIT_WIDTH,
            return_quant_tensor=False,
        )
        self.percentile = percentile
        self.unsigned = unsigned
        self.upper = upper
        self.learn_range = learn_range
        for parameter in self.parameters():
            parameter.requires_grad_(learn_range)

    def forward(self, input: Tensor) -> Tensor:
        """Return the input on its grid of levels, same shape.

        While training with fixed ranges, torch's fused kernel does the rounding: Brevitas' chain of small
        operators is slower and keeps five copies of the tensor.
        """
        if self.is_active and not self.training:
            scale, zero_point = self.levels()
            return arithmetic.to_grid(input, scale, zero_point)
        if self.is_active and not self.learn_range:
            return torch.fake_quantize_per_tensor_affine(input, *self.grid(), 0, LARGEST_CODE)
        if self.learn_range and self.training and self.upper is not None:
            with torch.no_grad():
                self._scaling.value.clamp_(-self.upper, self.upper)
        return super().forward(input)  # type: ignore[no-any-return]

    @property
    def _scaling(self) -> Any:
        return self.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl

    @property
    def _zero_point(self) -> Any:
        return self.act_quant.fused_activation_quant_proxy.tensor_quant.zero_point_impl

    def set_range(self, low: float, high: float) -> None:
        """Fix the range, zero included; from then on Brevitas treats it as learned, not observed."""
        low, high = (0.0 if self.unsigned else min(low, 0.0)), max(high, 0.0)
        if self.upper is not None:
            high = min(high, self.upper)
        parts = [(self._scaling, max(high - low, LEAST_SCALE * LARGEST_CODE))]
        if not self.unsigned:
            parts.append((self._zero_point, -low))
        with torch.no_grad():
            for part, value in parts:
                part.value.fill_(value)
                part.counter = part.collect_stats_steps + 1

    @property
    def is_calibrated(self) -> bool:
        """Whether the range was set by calibration or by loading."""
        return bool(self._scaling.counter > self._scaling.collect_stats_steps)

    @property
    def is_active(self) -> bool:
        """Whether it rounds: calibrated, and not switched off."""
        return self.is_calibrated and bool(self.act_quant.is_quant_enabled)

    def levels(self) -> tuple[Tensor, int]:
        """Return scale (float32 scalar) and zero point (0..255)."""
        training = self.training
        self.eval()
        with torch.no_grad():
            scale, zero_point = self.act_quant.scale(), self.act_quant.zero_point()
        self.train(training)
        return scale.reshape(()), round(float(zero_point))

    def grid(self) -> tuple[float, int]:
        """Return `levels` as numbers."""
        scale, zero_point = self.levels()
        return float(scale), zero_point


@dataclass(frozen=True)
class SteppedWeight:
    """A weight in steps that are given, with gradients that pass straight through.

    Attributes:
        weight: (out, in / groups, kh, kw).
        scale: (out, 1, 1, 1).
        largest_code: of the integers.
        rule: chooses integers for weights in steps; None: the nearest.
    """

    weight: Tensor
    scale: Tensor
    largest_code: int
    rule: Callable[[Tensor], Tensor] | None = None

    def int(self) -> Tensor:
        """Return the integers as floats, shape of weight."""
        in_steps = self.weight.detach() / self.scale
        if self.rule is not None:
            return self.rule(in_steps)
        return torch.round(in_steps).clamp_(-self.largest_code, self.largest_code)

    @property
    def value(self) -> Tensor:
        """Return the weight on its levels."""
        return self.weight + (self.int() * self.scale - self.weight).detach()


class QuantizedConv2d(qnn.QuantConv2d):  # type: ignore[misc]  # brevitas has no types
    """Convolution with integer weights of few bits; input and output are quantized by their own modules.

    Attributes:
        integer: the runtime computes it in integers; False: only the stored weights are integers.
        rule: chooses the integers while steps are fixed, a module, or None: the nearest.
    """

    rule: nn.Module | None

    def __init__(self, conv: nn.Module, *, bit_width: int, integer: bool) -> None:
        super().__init__(
            in_channels=conv.in_channels,
            out_channels=conv.out_channels,
            kernel_size=conv.kernel_size,
            stride=getattr(conv, "stride", 1),
            padding=getattr(conv, "padding", 0),
            dilation=getattr(conv, "dilation", 1),
            groups=getattr(conv, "groups", 1),
            padding_mode=getattr(conv, "padding_mode", "zeros"),
            bias=getattr(conv, "bias", None) is not None,
            weight_quant=Int8WeightPerChannelFloat,
            weight_bit_width=bit_width,
            return_quant_tensor=False,
        )
        self.integer = integer
        self.weight_bit_width = bit_width
        self.register_buffer(STEP, None)
        self.rule = None
        self.register_buffer(BIAS_UNIT, None)
        _copy_parameter(conv, self, "weight")
        _copy_parameter(conv, self, "bias")
        self.train(conv.training)

    def fix_steps(self, steps: Tensor) -> None:
        """Round the weights in these steps from now on, whatever the largest of them is.

        Args:
            steps: (out_channels,) > 0; a buffer of the layer from then on, so that it is stored.
        """
        self.weight_step = steps.detach().to(self.weight).reshape(-1)

    def coarsen_bias(self, unit: Tensor) -> None:
        """Let the bias be rounded to fewer integers from now on, see `integer_arithmetic.bias_codes`.

        Args:
            unit: scalar > 0; a buffer of the layer from then on.
        """
        self.bias_unit = unit.detach().to(self.weight).reshape(())

    def quant_weight(self, *inputs: Any, **named: Any) -> Any:
        """Return the weight as integers and scale; a plain tensor while quantization is switched off."""
        if self.weight_step is None or not self.weight_quant.is_quant_enabled:
            return super().quant_weight(*inputs, **named)
        return SteppedWeight(self.weight, self.weight_step.view(-1, 1, 1, 1), self.largest_code, self.rule)

    @property
    def largest_code(self) -> int:
        """Return the largest integer that a weight may become."""
        return int(2 ** (self.weight_bit_width - 1)) - 1

    def forward(
        self, input: Tensor, before: ActivationQuantizer | None = None, behind: ActivationQuantizer | None = None
    ) -> Tensor:
        """Convolve.

        Args:
            input: (N, in, H, W).
            before: the quantizer that the input comes from, if the layer is an integer one.
            behind: the quantizer that the output goes to, through a ReLU at most.
        """
        weight = self.quant_weight()
        scale = getattr(weight, "scale", None)  # absent while calibration has switched quantization off
        if before is None or behind is None or scale is None or not (before.is_active and behind.is_active):
            return self._conv_forward(input, getattr(weight, "value", weight), self.bias)  # type: ignore[no-any-return]
        input_scale, weight_scale = before.levels()[0], scale.detach().reshape(-1)
        if self.training:
            # Rounding the bias is visible too: it moved 0.1 % of the first layer's outputs by a level.
            step = input_scale * weight_scale
            bias = self.bias
            if bias is not None:
                codes = arithmetic.bias_codes(bias, input_scale, weight_scale, self.bias_unit)
                bias = bias + (codes * step - bias).detach()
            return self._conv_forward(input, weight.value, bias)  # type: ignore[no-any-return]
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return arithmetic.convolve(
            input,
            weight.int(),
            self.bias,
            input_scale=input_scale,
            weight_scale=weight_scale,
            output_scale=behind.levels()[0],
            bias_unit=self.bias_unit,
            **geometry,
        )

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """Return the integers (same shape as weight, int8) and the scales (out_channels,), float32."""
        with torch.no_grad():
            quantized = self.quant_weight()
            return quantized.int().to(torch.int8), quantized.scale.reshape(-1).float()


class QuantizedLayer(QuantizedConv2d):
    """Any other layer with a 4-D weight (deformable convolutions) on integer weights, float arithmetic.

    The layer itself is kept, without its weight and bias: those are parameters of this module, under
    the names they had before, so masks and checkpoints find them.
    """

    def __init__(self, layer: nn.Module, *, bit_width: int) -> None:
        super().__init__(layer, bit_width=bit_width, integer=False)
        for name in ("weight", "bias"):
            if name in layer._parameters:  # None as well: a name that is registered takes parameters only
                del layer._parameters[name]
                setattr(layer, name, None)
        self.layer = layer

    def forward(self, *inputs: Tensor, **named: Any) -> Tensor:  # type: ignore[override]
        """Call the layer with its quantized weight."""
        weight = self.quant_weight()  # a plain tensor while calibration has switched quantization off
        return self.call_with(getattr(weight, "value", weight), *inputs, **named)

    def call_with(self, weight: Tensor, *inputs: Tensor, with_bias: bool = True, **named: Any) -> Tensor:
        """Call the layer with a given weight."""
        # A plain tensor, not the Parameter: the layer must not own it.
        bias = self.bias.view(-1) if with_bias and self.bias is not None else None
        self.layer.weight, self.layer.bias = weight, bias  # type: ignore[assignment]
        try:
            return self.layer(*inputs, **named)  # type: ignore[no-any-return]
        finally:
            self.layer.weight = self.layer.bias = None  # type: ignore[assignment]


def add(a: Tensor, b: Tensor, *quantizers: ActivationQuantizer) -> Tensor:
    """Add two tensors; the quantizers are those of a, of b and of the sum."""
    if quantizers[2].training or not all(quantizer.is_active for quantizer in quantizers):
        return a + b
    return arithmetic.add(a, b, *(quantizer.levels() for quantizer in quantizers))


def _copy_parameter(source: nn.Module, target: nn.Module, name: str) -> None:
    old, new = getattr(source, name, None), getattr(target, name, None)
    if isinstance(old, nn.Parameter) and isinstance(new, nn.Parameter):
        with torch.no_grad():
            new.copy_(old)
        new.requires_grad_(old.requires_grad)
