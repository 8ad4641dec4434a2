"""Blocks that detectors are made of today, each 16 channels in and 16 out, and a small network around one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

C = 16


def conv(c1, c2, k=1, s=1, g=1, act=nn.SiLU):
    """Return convolution, norm, activation."""
    return nn.Sequential(nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c2), act())


NONE = nn.Identity


class Bottleneck(nn.Module):
    def __init__(self, c=C, hidden=None, act=nn.SiLU):
        super().__init__()
        self.cv1, self.cv2 = conv(c, hidden or c // 2, 3, act=act), conv(hidden or c // 2, c, 3, act=act)

    def forward(self, x):
        return x + self.cv2(self.cv1(x))


class C3(nn.Module):
    def __init__(self, c=C, out=C):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = conv(c, 8), conv(c, 8), conv(16, out)
        self.m = nn.Sequential(Bottleneck(8), Bottleneck(8))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """YOLOv8, in several spellings of the same halves."""

    def __init__(self, how, inner=Bottleneck, c=8):
        super().__init__()
        self.how, self.c, self.sizes = how, c, [c, c]
        self.cv1, self.cv2, self.m = conv(C, 2 * c), conv(3 * c, C), nn.ModuleList([inner(c)])

    def forward(self, x):
        x = self.cv1(x)
        if self.how == "list":
            y = list(x.chunk(2, 1))
        elif self.how == "split":
            y = list(x.split((self.c, self.c), 1))
        elif self.how == "split_one":
            y = list(x.split(self.c, dim=1))
        elif self.how == "sizes":
            y = list(torch.split(x, self.sizes, dim=1))
        elif self.how == "slices":
            y = [x[:, : self.c], x[:, self.c :]]
        elif self.how == "shape":
            y = [x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]]
        elif self.how == "narrow":
            y = [x.narrow(1, 0, self.c), x.narrow(1, self.c, self.c)]
        else:
            y = [x[:, :8, ...], x[:, 8:, ...]]
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Attention(nn.Module):
    """YOLO11: heads, keys narrower than values, a depthwise positional convolution."""

    def __init__(self, dim=C, heads=2):
        super().__init__()
        self.num_heads, self.head_dim, self.key_dim = heads, dim // heads, dim // heads // 2
        self.scale = self.key_dim**-0.5
        self.qkv = conv(dim, dim + self.key_dim * heads * 2, act=NONE)
        self.proj, self.pe = conv(dim, dim, act=NONE), conv(dim, dim, 3, g=dim, act=NONE)

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(x).view(b, self.num_heads, self.key_dim * 2 + self.head_dim, h * w)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        attn = ((q.transpose(-2, -1) @ k) * self.scale).softmax(dim=-1)
        return self.proj((v @ attn.transpose(-2, -1)).view(b, c, h, w) + self.pe(v.reshape(b, c, h, w)))


class PSA(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.cv1, self.cv2 = 8, conv(C, 16), conv(16, C)
        self.attn, self.ffn = Attention(8, 2), nn.Sequential(conv(8, 16), conv(16, 8, act=NONE))

    def forward(self, x):
        a, b = self.cv1(x).split((self.c, self.c), dim=1)
        b = b + self.attn(b)
        return self.cv2(torch.cat((a, b + self.ffn(b)), 1))


class AreaAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(C, 3 * C, 1), nn.Conv2d(C, C, 1)

    def forward(self, x):
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        weight = (q.transpose(1, 2) @ k * 0.25).softmax(-1)
        return x + self.proj((v @ weight.transpose(1, 2)).view(x.shape[0], -1, x.shape[2], x.shape[3]))


class TokenAttention(nn.Module):
    """A transformer layer: linear layers, heads by reshape and unbind, layer norms."""

    def __init__(self, dot=False):
        super().__init__()
        self.dot, self.heads, self.norm1, self.norm2 = dot, 2, nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))

    def forward(self, x):
        b, c, h, w = x.shape
        t = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(t)).reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dot = self.dot
        y = F.scaled_dot_product_attention(q, k, v) if dot else (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v
        t = t + self.proj(y.transpose(1, 2).flatten(2))
        t = t + self.mlp(self.norm2(t))
        return t.transpose(1, 2).reshape(b, c, h, w)


class Focus(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.up = conv(4 * C, C), nn.Upsample(scale_factor=2)

    def forward(self, x):
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.up(self.conv(torch.cat(parts, 1)))


class WeightNorm(nn.Module):
    def __init__(self, norm=nn.utils.parametrizations.weight_norm):
        super().__init__()
        self.a, self.b, self.c = conv(C, 32), norm(nn.Conv2d(32, 24, 3, padding=1)), conv(24, C)

    def forward(self, x):
        return self.c(F.relu(self.b(self.a(x))))


class Repeated(nn.Module):
    def __init__(self, interleave):
        super().__init__()
        self.interleave, self.a, self.b, self.c = interleave, conv(C, 8), conv(16, 16, 3), conv(16, C)

    def forward(self, x):
        y = self.a(x)
        return self.c(self.b(y.repeat_interleave(2, 1) if self.interleave else y.repeat(1, 2, 1, 1)))


class ConvNeXt(nn.Module):
    def __init__(self, last=False):
        super().__init__()
        self.last, self.dw, self.norm = last, nn.Conv2d(C, C, 7, padding=3, groups=C), nn.LayerNorm(C)
        self.pw1 = nn.Linear(C, 32) if last else nn.Conv2d(C, 32, 1)
        self.pw2 = nn.Linear(32, C) if last else nn.Conv2d(32, C, 1)
        self.gamma = nn.Parameter(torch.full((C,) if last else (C, 1, 1), 0.5))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pw2(F.gelu(self.pw1(y if self.last else y.permute(0, 3, 1, 2))))
        return x + (y.permute(0, 3, 1, 2) if self.last else y)


class Scaled(nn.Module):
    """Parameters (C,1,1) and (1,C,1,1) and a buffer on prunable channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gamma = conv(C, 24), nn.Conv2d(24, C, 1), nn.Parameter(torch.rand(24, 1, 1) + 0.5)
        self.beta = nn.Parameter(torch.rand(1, 24, 1, 1))
        self.register_buffer("offset", torch.rand(24, 1, 1))

    def forward(self, x):
        return self.b(self.gamma * self.a(x) + self.beta + self.offset)


def shuffled(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleNet1(nn.Module):
    def __init__(self, groups=2, own=True):
        super().__init__()
        self.groups, self.shuffle = groups, None if own else nn.ChannelShuffle(groups)
        self.a, self.dw, self.b = conv(C, 32, g=groups), conv(32, 32, 3, g=32, act=NONE), conv(32, C, g=groups)

    def forward(self, x):
        y = self.a(x)
        y = shuffled(y, self.groups) if self.shuffle is None else self.shuffle(y)
        return x + self.b(self.dw(y))


class ShuffleNet2(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(conv(8, 12), conv(12, 12, 3, g=12, act=NONE), conv(12, 8))
        self.first, self.last = conv(C, C), conv(C, C)

    def forward(self, x):
        a, b = self.first(x).chunk(2, dim=1)
        return self.last(shuffled(torch.cat((a, self.branch(b)), 1), 2))


class SE(nn.Module):
    def __init__(self, c=24, gate=nn.Sigmoid):
        super().__init__()
        self.pool, self.fc1, self.fc2, self.gate = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, 8, 1),
            nn.Conv2d(8, c, 1),
            gate(),
        )

    def forward(self, x):
        return x * self.gate(self.fc2(F.relu(self.fc1(self.pool(x)))))


class LinearSE(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(C, 24), conv(24, C)
        self.fc = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 24), nn.Sigmoid())

    def forward(self, x):
        y = self.a(x)
        b, c = y.shape[:2]
        return self.b(y * self.fc(y.mean((2, 3))).view(b, c, 1, 1))


class MBConv(nn.Module):
    def __init__(self, act=nn.SiLU, gate=nn.Sigmoid, k=3, se=True):
        super().__init__()
        self.expand, self.dw, self.project = conv(C, 24, act=act), conv(24, 24, k, g=24, act=act), conv(24, C, act=NONE)
        self.se = SE(24, gate) if se else nn.Identity()

    def forward(self, x):
        return x + self.project(self.se(self.dw(self.expand(x))))


class UIB(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.scale = conv(C, C, 3, g=C, act=NONE), nn.Parameter(torch.ones(C, 1, 1) * 0.3)
        self.expand, self.dw = conv(C, 32, act=nn.ReLU), conv(32, 32, 5, g=32, act=nn.ReLU)
        self.project = conv(32, C, act=NONE)

    def forward(self, x):
        return x + self.scale * self.project(self.dw(self.expand(self.start(x))))


class RepVGG(nn.Module):
    """Three branches that are added; the identity has a norm of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm, self.act = (
            conv(C, C, 3, act=NONE),
            conv(C, C, 1, act=NONE),
            nn.BatchNorm2d(C),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.act(self.a(x) + self.b(x) + self.norm(x))


class CSPNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.short, self.final, self.fc = conv(C, 8), conv(C, 8), conv(16, C), nn.Conv2d(16, 16, 1)
        self.one, self.dw, self.pw = conv(8, 8, 3), conv(8, 8, 5, g=8), conv(8, 8)

    def forward(self, x):
        a = self.main(x)
        y = torch.cat((a + self.pw(self.dw(self.one(a))), self.short(x)), 1)
        return self.final(y * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(y, 1))))


class SPPF(nn.Module):
    def __init__(self):
        super().__init__()
        self.cv1, self.cv2, self.pool = conv(C, 8), conv(32, C), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        y = [self.cv1(x)]
        y.extend(self.pool(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class SharedHead(nn.Module):
    """YOLOX's decoupled head on two levels, one set of weights."""

    def __init__(self):
        super().__init__()
        self.stem, self.cls, self.reg = conv(C, 16), nn.Sequential(conv(16, 16, 3), conv(16, 12, 3)), conv(16, 12, 3)
        self.last = nn.Conv2d(24, C, 1)

    def forward(self, x):
        stems = [self.stem(y) for y in (x, F.max_pool2d(x, 2))]
        a, b = (self.last(torch.cat((self.cls(y), self.reg(y)), 1)) for y in stems)
        return a + F.interpolate(b, scale_factor=2)


class HRNet(nn.Module):
    def __init__(self):
        super().__init__()
        relu = nn.ReLU
        self.high, self.low, self.down = Bottleneck(C, act=relu), Bottleneck(24, act=relu), conv(C, 24, 3, 2, act=relu)
        self.up, self.again, self.last = conv(24, C, act=NONE), conv(C, 24, 3, 2, act=NONE), conv(24, C)

    def forward(self, x):
        high, low = self.high(x), self.low(self.down(x))
        fused = F.relu(high + F.interpolate(self.up(low), scale_factor=2.0, mode="nearest"))
        return fused + F.interpolate(self.last(F.relu(low + self.again(high))), scale_factor=2.0, mode="bilinear")


class BiFPN(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.down = nn.Parameter(torch.tensor([0.4, 0.7])), conv(C, C, 3, 2)
        self.mid, self.out = conv(C, C, 3), conv(C, C, 3)

    def forward(self, x):
        w = F.relu(self.w)
        w = w / (w.sum() + 1e-4)
        return self.out(w[0] * x + w[1] * F.interpolate(self.mid(self.down(x)), scale_factor=2))


class Deformable(nn.Module):
    def __init__(self, mask=True):
        super().__init__()
        self.a, self.offset, self.mask = conv(C, 24), nn.Conv2d(24, 18, 3, padding=1), nn.Conv2d(24, 9, 3, padding=1)
        self.deform, self.b, self.with_mask = DeformConv2d(24, 20, 3, padding=1), conv(20, C), mask

    def forward(self, x):
        x = self.a(x)
        return self.b(self.deform(x, self.offset(x), self.mask(x).sigmoid() if self.with_mask else None))


class OneChannel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.map, self.one, self.b = (
            conv(C, 24),
            nn.Conv2d(24, 1, 1),
            nn.Conv2d(1, 1, 3, padding=1),
            conv(24, C),
        )

    def forward(self, x):
        y = self.a(x)
        return self.b(y * torch.sigmoid(self.one(self.map(y))))


class CBAM(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.se, self.map = conv(C, 24), conv(24, C), SE(24), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        y = self.se(self.a(x))
        both = torch.cat((y.mean(1, keepdim=True), y.amax(1, keepdim=True)), 1)
        return self.b(y * self.map(both).sigmoid())


class GroupNorms(nn.Module):
    def __init__(self, groups=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(C, 16, 3, padding=1), nn.Conv2d(16, C, 1)
        self.norm, self.norm2 = nn.GroupNorm(groups, 16), nn.GroupNorm(groups, C)

    def forward(self, x):
        return x + self.norm2(self.b(F.relu(self.norm(self.a(x)))))


class Ghost(nn.Module):
    def __init__(self):
        super().__init__()
        self.oup, self.primary, self.cheap, self.last = 24, conv(C, 12), conv(12, 12, 3, g=12), conv(24, C)

    def forward(self, x):
        y = self.primary(x)
        return self.last(torch.cat((y, self.cheap(y)), 1)[:, : self.oup])


class Partial(nn.Module):
    """FasterNet: a convolution of a quarter of the channels."""

    def __init__(self):
        super().__init__()
        self.dim, self.rest = 6, 18
        self.a, self.conv, self.b = conv(C, 24), nn.Conv2d(6, 6, 3, padding=1, bias=False), conv(24, C)

    def forward(self, x):
        one, other = torch.split(self.a(x), [self.dim, self.rest], dim=1)
        return x + self.b(torch.cat((self.conv(one), other), 1))


class ELAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.cv4 = conv(C, 16), conv(8, 8, 3), conv(8, 8, 3), conv(32, C)

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.append(self.cv2(y[-1]))
        y.append(self.cv3(y[-1]))
        return self.cv4(torch.cat(y, 1))


class ADown(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.cv1, self.cv2, self.up = conv(C, 16), conv(8, 8, 3, 2), conv(8, 8), nn.ConvTranspose2d(16, C, 2, 2)

    def forward(self, x):
        a, b = F.avg_pool2d(self.a(x), 3, 1, 1).chunk(2, 1)
        return self.up(torch.cat((self.cv1(a), self.cv2(F.max_pool2d(b, 3, 2, 1))), 1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.dw, self.b = nn.Conv2d(C, 48, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, C, 1)

    def forward(self, x):
        value, gate = self.a(x).chunk(2, dim=1)
        return x + self.b(F.gelu(self.dw(value)) * gate)


class Selective(nn.Module):
    """Selective kernels: branches stacked and weighted."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last, self.fc = conv(C, 24, 3), conv(C, 24, 1), conv(24, C), nn.Conv2d(24, 24, 1)

    def forward(self, x):
        y = torch.stack((self.a(x), self.b(x)), 1)
        gate = self.fc(y.sum(1).mean((2, 3), keepdim=True)).sigmoid()
        return self.last((y * gate.unsqueeze(1)).sum(1))


class Res2Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.width, self.a, self.b = 6, conv(C, 24), conv(24, C)
        self.convs = nn.ModuleList([conv(6, 6, 3) for _ in range(3)])

    def forward(self, x):
        parts = torch.split(self.a(x), self.width, 1)
        found = [self.convs[0](parts[0])]
        found.append(self.convs[1](found[-1] + parts[1]))
        found.append(self.convs[2](found[-1] + parts[2]))
        return x + self.b(torch.cat((*found, parts[3]), 1))


class ShortcutA(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(C, 24, 3, act=NONE), conv(24, C)

    def forward(self, x):
        return self.b(F.relu(self.a(x) + F.pad(x, (0, 0, 0, 0, 0, 8))))


class SiluSum(nn.Module):
    """A sum behind SiLU that a convolution reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(C, C, 3), conv(C, C, 3, act=NONE), conv(C, C)

    def forward(self, x):
        return self.c(self.a(x) + self.b(x))


def pixel_shuffles():
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(64, 64, 1), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(16, C, 1))


def prelu():
    return nn.Sequential(nn.Conv2d(C, 24, 3, padding=1), nn.PReLU(24), nn.Conv2d(24, C, 1), nn.PReLU())


BLOCKS = {
    "yolov5_c3": C3, "yolov5_focus": Focus, "yolov5_sppf": SPPF, "yolov5_bottleneck": Bottleneck,
    "yolov8_c2f_list": lambda: C2f("list"), "yolov8_c2f_split": lambda: C2f("split"),
    "yolov8_c2f_split_one": lambda: C2f("split_one"), "yolov8_c2f_sizes": lambda: C2f("sizes"),
    "yolov8_c2f_slices": lambda: C2f("slices"), "yolov8_c2f_shape": lambda: C2f("shape"),
    "yolov8_c2f_narrow": lambda: C2f("narrow"), "yolov8_c2f_literal": lambda: C2f("literal"),
    "yolo11_c3k2": lambda: C2f("list", inner=lambda c: C3(c, c)), "yolo11_attention": Attention, "yolo11_c2psa": PSA,
    "yolo26_area_attention": AreaAttention, "yolov9_adown": ADown, "yolov7_elan": ELAN,
    "rtmdet_cspnext": CSPNeXt, "yolox_head": SharedHead, "repvgg": RepVGG,
    "convnext_conv": ConvNeXt, "convnext_linear": lambda: ConvNeXt(last=True), "layer_scale": Scaled,
    "shufflenet1": ShuffleNet1, "shufflenet1_module": lambda: ShuffleNet1(4, own=False), "shufflenet2": ShuffleNet2,
    "efficientnet_mbconv": MBConv, "mobilenetv3": lambda: MBConv(nn.Hardswish, nn.Hardsigmoid, 5),
    "mobilenetv2": lambda: MBConv(nn.ReLU6, se=False), "mobilenetv4_uib": UIB, "linear_se": LinearSE,
    "hrnet": HRNet, "bifpn": BiFPN, "deformable": Deformable, "deformable_v1": lambda: Deformable(mask=False),
    "attention_tokens": TokenAttention, "attention_dot": lambda: TokenAttention(dot=True),
    "pixel_shuffle": pixel_shuffles, "weight_norm": WeightNorm,
    "weight_norm_old": lambda: WeightNorm(nn.utils.weight_norm),
    "repeat_interleave": lambda: Repeated(True), "repeat": lambda: Repeated(False), "prelu": prelu,
    "one_channel": OneChannel, "cbam": CBAM, "group_norm": GroupNorms, "group_norm_one": lambda: GroupNorms(1),
    "ghostnet": Ghost, "fasternet": Partial, "gated": Gated, "selective_kernel": Selective, "res2net": Res2Net,
    "resnet_shortcut_a": ShortcutA, "silu_sum": SiluSum,
}  # fmt: skip


class BlockNet(nn.Module):
    """Two layers, the block, another layer, and raw outputs of 5 channels."""

    def __init__(self, name: str, blocks: Mapping[str, Callable[[], nn.Module]] = BLOCKS) -> None:
        super().__init__()
        self.stem, self.before, self.block = conv(3, 16, 3, 2), conv(16, C, 3), blocks[name]()
        self.after, self.head = conv(C, 24, 3), nn.Conv2d(24, 5, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(self.after(self.block(self.before(self.stem(images))))),)


def block_net(name: str, blocks: Mapping[str, Callable[[], nn.Module]] = BLOCKS) -> BlockNet:
    """Return a network in evaluation mode whose norms are not trivial."""
    torch.manual_seed(0)
    net = BlockNet(name, blocks)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.normal_(module.bias, std=0.2)
            if module.track_running_stats:
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.2, 0.6)
    return net.eval()
