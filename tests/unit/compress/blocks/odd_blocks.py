"""Blocks whose forward pass holds more than its layers say: values changed in place, weights that are computed,
convolutions with a forward pass of their own; and further kinds of attention and of heads."""

from __future__ import annotations

import torch
from block_zoo import NONE, C, conv
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.ops import DeformConv2d


class InPlaceStatements(nn.Module):
    """Nobody takes what these return."""

    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Conv2d(C, 24, 3, padding=1), nn.ReLU(inplace=True), conv(24, C)

    def forward(self, x):
        y = self.a(x)
        self.relu(y)
        F.silu(y, inplace=True)
        y.mul_(0.7).add_(0.3)
        return self.b(y)


class InPlaceAlias(nn.Module):
    """Two names of one tensor, one of them behind an identity."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.same = conv(C, 24, act=NONE), conv(24, 24, 3, act=NONE), conv(24, C), nn.Identity()

    def forward(self, x):
        y = self.a(x)
        before = self.same(y)
        y += self.b(y)
        return self.c(y + before)


class InPlaceParts(nn.Module):
    """Disjoint parts, one of them changed."""

    def __init__(self):
        super().__init__()
        self.c, self.a, self.b, self.relu = 12, conv(C, 24, act=NONE), conv(24, C), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.a(x)
        return self.b(torch.cat((self.relu(y[:, : self.c]), y[:, self.c :].sigmoid()), 1))


class Standardized(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 0.5


class Renamed(nn.Conv2d):
    """Computes what a convolution computes."""

    def forward(self, x):
        if self.in_channels < 1:
            raise ValueError
        return super().forward(x)


class OwnConvolution(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.own, self.b = conv(C, 24), kind(24, 20, 3, padding=1, bias=False), conv(20, C)
        self.norm = nn.BatchNorm2d(20)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.own(self.a(x)))))


class Computed(nn.Module):
    """A weight that a hook computes, as torch did before parametrizations."""

    def __init__(self, change):
        super().__init__()
        self.a, self.own, self.b = conv(C, 16), change(nn.Conv2d(16, 16, 3, padding=1)), conv(16, C)

    def forward(self, x):
        return self.b(F.relu(self.own(self.a(x))))


class Tied(nn.Module):
    """One weight, forward and back."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(C, 24, 1)

    def forward(self, x):
        return F.conv_transpose2d(F.relu(self.a(x)), self.a.weight)


class DeformableNorm(nn.Module):
    """Offsets and mask of one convolution; no bias but a norm, as most networks have it."""

    def __init__(self):
        super().__init__()
        self.field, self.deform = nn.Conv2d(C, 27, 3, padding=1), DeformConv2d(C, 24, 3, padding=1, bias=False)
        self.norm, self.b = nn.BatchNorm2d(24), conv(24, C)

    def forward(self, x):
        first, second, mask = torch.chunk(self.field(x), 3, 1)
        return self.b(F.silu(self.norm(self.deform(x, torch.cat((first, second), 1), mask.sigmoid()))))


class NonLocal(nn.Module):
    """Sizes taken apart where they are used."""

    def __init__(self):
        super().__init__()
        self.theta, self.phi, self.g, self.out = (*(nn.Conv2d(C, 8, 1) for _ in range(3)), conv(8, C, act=NONE))

    def forward(self, x):
        theta = self.theta(x).flatten(2).transpose(1, 2)
        phi, g = F.max_pool2d(self.phi(x), 2).flatten(2), F.max_pool2d(self.g(x), 2).flatten(2).transpose(1, 2)
        y = torch.bmm(torch.bmm(theta, phi).softmax(-1), g).transpose(1, 2)
        return x + self.out(y.reshape(x.size(0), -1, *x.shape[2:]))


class CoordinateAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.mix, self.b = conv(C, 24), conv(24, 8, act=nn.Hardswish), conv(24, C)
        self.rows, self.columns = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 24, 1)

    def forward(self, x):
        y = self.a(x)
        height, width = y.shape[2:]
        both = torch.cat((y.mean(3, keepdim=True), y.mean(2, keepdim=True).transpose(2, 3)), 2)
        rows, columns = torch.split(self.mix(both), [height, width], 2)
        return self.b(y * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid())


class SimAM(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(C, 24), conv(24, C)

    def forward(self, x):
        y = self.a(x)
        far = (y - y.mean((2, 3), keepdim=True)).pow(2)
        spread = far.sum((2, 3), keepdim=True) / (y.shape[2] * y.shape[3] - 1)
        return self.b(y * torch.sigmoid(far / (4 * (spread + 1e-4)) + 0.5))


class SharedLevels(nn.Module):
    """RTMDet's head: convolutions shared by levels, a norm and a factor for each."""

    def __init__(self):
        super().__init__()
        self.share, self.last = nn.Conv2d(C, 16, 3, padding=1, bias=False), nn.Conv2d(16, C, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        self.factors = nn.ParameterList(nn.Parameter(torch.tensor(1.0 + i)) for i in range(3))

    def forward(self, x):
        out = 0
        for i, (norm, factor) in enumerate(zip(self.norms, self.factors, strict=True)):
            y = self.last(F.silu(norm(self.share(F.max_pool2d(x, 2**i) if i else x)))) * factor
            out = out + F.interpolate(y, size=x.shape[2:])
        return out


class Distribution(nn.Module):
    """YOLOv8's box branch: softmax over steps, and their mean."""

    def __init__(self):
        super().__init__()
        self.a, self.steps = conv(C, 16, 3), nn.Conv2d(16, 32, 1)
        self.mean, self.b = nn.Conv2d(8, 1, 1, bias=False), conv(4, C)
        self.mean.weight.data[:] = torch.arange(8.0).view(1, 8, 1, 1)

    def forward(self, x):
        y = self.steps(self.a(x))
        b, _, h, w = y.shape
        return self.b(self.mean(y.view(b, 4, 8, h * w).transpose(2, 1).softmax(1)).view(b, 4, h, w))


class TransposedGroups(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(C, 24), conv(16, C, 3, 4)
        self.one, self.four = nn.ConvTranspose2d(24, 24, 2, 2, groups=24), nn.ConvTranspose2d(24, 16, 2, 2, groups=4)

    def forward(self, x):
        return self.b(F.relu(self.four(self.one(self.a(x)))))


class PlainNorms(nn.Module):
    """Norms without scale and shift, padding that is not of zeros."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(C, 24, 3, padding=1, padding_mode="reflect"), nn.Conv2d(24, C, 1)
        self.norm, self.norm2 = nn.BatchNorm2d(24, affine=False), nn.BatchNorm2d(C, affine=False)

    def forward(self, x):
        return x + self.norm2(self.b(F.relu(self.norm(self.a(x)))))


class DeformableGroups(nn.Module):
    """A field for each of two groups of channels."""

    def __init__(self):
        super().__init__()
        self.a, self.field = conv(C, 24), nn.Conv2d(24, 36, 3, padding=1)
        self.deform, self.b = DeformConv2d(24, 24, 3, padding=1, groups=2), conv(24, C)

    def forward(self, x):
        x = self.a(x)
        return self.b(F.relu(self.deform(x, self.field(x) * 0.1)))


class UnsavedBuffer(nn.Module):
    """A buffer that comes from the constructor and not from the file."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(C, 24, 3), conv(24, C)
        self.register_buffer("mask", (torch.arange(24) % 3 + 1.0).view(1, 24, 1, 1), persistent=False)

    def forward(self, x):
        return x + self.b(self.a(x) * self.mask)


def masked(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


ODD = {
    "in_place_statements": InPlaceStatements, "in_place_alias": InPlaceAlias, "in_place_parts": InPlaceParts,
    "weight_standardization": lambda: OwnConvolution(Standardized), "halved": lambda: OwnConvolution(Halved),
    "renamed": lambda: OwnConvolution(Renamed), "spectral_norm_old": lambda: Computed(nn.utils.spectral_norm),
    "masked": lambda: Computed(masked), "tied": Tied, "deformable_norm": DeformableNorm, "non_local": NonLocal,
    "coordinate_attention": CoordinateAttention, "simam": SimAM, "shared_levels": SharedLevels,
    "distribution": Distribution, "transposed_groups": TransposedGroups, "plain_norms": PlainNorms,
    "deformable_groups": DeformableGroups, "unsaved_buffer": UnsavedBuffer,
}  # fmt: skip
