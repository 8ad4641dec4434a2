"""A small detector-shaped network with everything that makes quantization hard, and its plug-in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fake_plugin import FakePlugin
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from compress.dataset import InputFormat

HEIGHT, WIDTH, CHANNELS, CLASSES = 64, 96, 16, 3


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_(std=0.1)
    norm.running_var.uniform_(0.7, 1.3)
    nn.init.uniform_(norm.weight, 0.8, 1.2)
    nn.init.normal_(norm.bias, std=0.1)
    return norm


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, 32, 1, bias=False), _norm(32), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), _norm(32), nn.ReLU6())
        self.linear = nn.Sequential(nn.Conv2d(32, channels, 1, bias=False), _norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.depthwise(self.expand(x)))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, 2, 1, bias=False), _norm(CHANNELS), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block = InvertedResidual(CHANNELS)
        self.down = nn.Sequential(nn.Conv2d(CHANNELS, 24, 3, 2, 1, bias=False), _norm(24), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.block(self.pool(self.stem(x)))
        return fine, self.down(fine)


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(24, CHANNELS, 1)])
        self.smooth = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.extra = nn.Conv2d(24, CHANNELS, 3, 2, 1)

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = self.laterals[0](fine), self.laterals[1](coarse)
        low = low + F.interpolate(high, size=low.shape[2:], mode="nearest")
        return self.smooth(low), high, self.extra(coarse)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.relu = nn.ReLU()
        self.dilated = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, bias=False)
        self.offset = nn.Conv2d(CHANNELS, 27, 3, padding=1)
        self.deform = DeformConv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.score = nn.Conv2d(CHANNELS, CLASSES, 3, padding=1)
        self.box = nn.Conv2d(CHANNELS, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = self.dilated(self.relu(self.first(x)))
        field = self.offset(feature)
        offset, mask = field[:, :18], torch.sigmoid(field[:, 18:])
        feature = self.deform(feature, offset, mask)
        return self.score(feature), self.box(feature), offset


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = Backbone(), Neck(), Head()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        scores, boxes, offsets = zip(*[self.head(x) for x in self.neck(*self.backbone(images))], strict=True)
        return (*scores, *boxes, *offsets)


@dataclass
class LookalikeBatch:
    images: Tensor

    def to(self, device: Any) -> LookalikeBatch:
        return LookalikeBatch(self.images.to(device))


class LookalikeLoader:
    """Smooth random images: like photographs, neighbours are alike."""

    def __init__(self, number: int, batch_size: int, seed: int) -> None:
        self.number, self.batch_size, self.seed = number, batch_size, seed

    def __len__(self) -> int:
        return self.number // self.batch_size

    def __iter__(self) -> Iterator[LookalikeBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(len(self)):
            coarse = torch.randn(self.batch_size, 3, HEIGHT // 8, WIDTH // 8, generator=generator)
            yield LookalikeBatch(F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear").clamp(-2.1, 2.6))


class Lookalike(FakePlugin):
    NAME = "lookalike"

    def __init__(self, islands: dict[str, str] | None = None) -> None:
        self.islands = islands

    def build(self) -> Network:
        torch.manual_seed(0)
        model = Network().eval()
        nn.init.normal_(model.head.offset.weight, std=0.03)
        return model

    def output_names(self) -> tuple[str, ...]:
        return tuple(f"{kind}_{level}" for kind in ("score", "box") for level in range(3))

    def example_input(self, batch_size: int = 1) -> Tensor:
        return torch.zeros(batch_size, 3, HEIGHT, WIDTH)

    def not_quantizable(self, model: nn.Module) -> dict[str, str]:
        if self.islands is not None:
            return self.islands
        return {
            "head.deform": "no integer DeformConv",
            "head.offset": "offsets reach far",
            "head.score": "output layer",
            "head.box": "output layer",
        }

    def distill_points(self, model: nn.Module) -> tuple[str, ...]:
        return ("backbone.block", "head.deform")

    def loader(
        self, split: str, input_format: InputFormat, *, batch_size: int, augment: bool, seed: int
    ) -> LookalikeLoader:
        return LookalikeLoader(8, batch_size, seed + (100 if split == "val" else 0))

    def loss(self, model: nn.Module, raw: tuple[Tensor, ...], batch: Any) -> dict[str, Tensor]:
        return {"loss": sum(x.square().mean() for x in raw[:6])}

    def metadata(self) -> dict[str, Any]:
        return {"plugin": self.NAME, "output_names": list(self.output_names())}


def images_of(detector: Lookalike, number: int = 4, split: str = "train") -> list[Tensor]:
    """Return batches of one image."""
    loader = detector.data.loader(split, detector.input_format(), batch_size=1, augment=False, seed=0)
    return [batch.images for _, batch in zip(range(number), loader, strict=False)]
