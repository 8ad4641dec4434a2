"""Fresh networks whose signals survive: what a test of numbers needs, without training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from compress.metrics.complexity import has_convolution_weight


def lively(detector: Any) -> nn.Module:
    """Return a fresh model in evaluation mode, with norms that have seen images of both kinds that the suite shows it.

    Detectors start with tiny weights in their heads, so that every output is its bias: any comparison would succeed.
    Weights much smaller than Kaiming's are drawn again; zero ones stay (sampling offsets start at 0 for a reason).

    The kinds are training images and `example_input`. Norms that know the smooth images alone enlarge noise from layer
    to layer: a deep network's scores then spread by hundreds, and absolute bounds ask for more than single precision.
    """
    torch.manual_seed(0)
    model = detector.build()
    for module in model.modules():
        if not has_convolution_weight(module):
            continue
        usual = (2 / module.weight[0].numel()) ** 0.5
        if 0 < float(module.weight.detach().std()) < usual / 2:
            nn.init.kaiming_normal_(module.weight)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    batch = next(iter(detector.data.loader("train", detector.input_format(), batch_size=4, augment=False, seed=0)))
    with torch.no_grad():
        model.train()(torch.cat([batch.images, detector.example_input(len(batch.images))]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def copied(model: nn.Module) -> nn.Module:
    """Return a copy to be changed."""
    return copy.deepcopy(model)
