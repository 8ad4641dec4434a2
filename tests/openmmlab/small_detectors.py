"""Small versions of MMRotate's detectors, and one image full of objects to try them on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from detectors.data.formats.dota import DotaData, DotaDataset
from detectors.openmmlab.adapter import OUTPUT_PATTERN, OpenMmlab

SIZE = 128
CLASSES = ("ship", "car", "plane")
CSPNEXT = {
    "backbone.widen_factor": 0.25,
    "backbone.deepen_factor": 0.167,
    "neck.in_channels": [64, 128, 256],
    "neck.num_csp_blocks": 1,
}


SWIN = {
    "backbone.embed_dims": 32,
    "backbone.depths": [1, 1, 1, 1],
    "backbone.num_heads": [1, 2, 4, 8],
    "neck.in_channels": [32, 64, 128, 256],
}


def small(config, *, size=SIZE, **fields):
    """Return the plug-in with a narrow version of a shipped configuration."""
    # A group norm of 32 groups on a map of one cell needs two channels a group.
    channels = 64 if any(name in config for name in ("fcos", "atss", "cfa", "reppoints")) else 32
    if "rtmdet" in config:
        fields = {"cfg_options": CSPNEXT, "channels": channels} | fields
    elif "swin" in config:
        fields = {"cfg_options": SWIN, "channels": channels} | fields
    elif "redet" in config or "convnext" in config:
        pass  # their backbones need packages that are not part of the environment
    else:
        fields = {"backbone": "resnet18", "base_channels": 16, "channels": channels} | fields
    data = DotaDataset(DotaData(image_size=(size, size)), ())
    return OpenMmlab(OpenMmlab.CONFIG(config=config, classes=CLASSES, **fields), data)


def smooth_images(number, seed, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 3, size // 8, size // 8, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def scene(number=2, seed=0, size=SIZE, ignored=True):
    """Return a batch with objects of 10 to 50 px, one of them ignored."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count):
        box = torch.rand(count, 5, generator=generator)
        box[:, :2] = 16 + box[:, :2] * (size - 32)
        box[:, 2] = 20 + 30 * box[:, 2]
        box[:, 3] = 10 + 10 * box[:, 3]
        box[:, 4] = (box[:, 4] - 0.25) * torch.pi
        return box

    labels = [torch.randint(0, len(CLASSES), (6,), generator=generator) for _ in range(number)]
    batch = SimpleNamespace(
        images=smooth_images(number, seed, size),
        boxes=[boxes(6) for _ in range(number)],
        labels=labels,
        ignored=[boxes(1 if ignored else 0) for _ in range(number)],
    )
    batch.to = lambda _device: batch
    return batch


def enliven(model):
    """Give a fresh network weights with which signals neither vanish nor explode, and real statistics."""
    torch.manual_seed(0)
    for name, layer in model.named_modules():
        if name.startswith("heads."):
            continue
        if isinstance(layer, nn.Conv2d) and not name.startswith("backbone."):
            nn.init.kaiming_normal_(layer.weight)
            if OUTPUT_PATTERN.fullmatch(name):
                with torch.no_grad():
                    layer.weight.mul_(0.1)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            if layer.weight is not None:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
    with torch.no_grad():
        model.train()(smooth_images(4, seed=2))
    return model.eval()


def train_step(detector, model, batch=None):
    """Take one optimizer step; return the losses."""
    batch = scene() if batch is None else batch
    detector.set_train_mode(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = detector.loss(model, tuple(model(batch.images)), batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
    optimizer.step()
    values = {name: float(value.detach()) for name, value in losses.items()}
    assert all(math.isfinite(value) for value in values.values()), f"losses {values}"
    return values
