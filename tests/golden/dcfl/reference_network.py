"""A DCFL network in plain float64 operations, by parameter name; nothing of the plug-in is used."""

import numpy as np
import torch
from torch.nn import functional as F

STRIDES = (8, 16, 32, 64, 128)


def shapes(width, channels, classes):
    """Names and shapes of a ResNet-18 with FPN and head, under the published names."""
    table = {"backbone.conv1.weight": [width, 3, 7, 7]}

    def norm(name, count):
        table.update({f"{name}.{part}": [count] for part in ("weight", "bias", "running_mean", "running_var")})
        table[f"{name}.num_batches_tracked"] = []

    norm("backbone.bn1", width)
    before = width
    for stage in range(4):
        after = width * 2**stage
        for block in range(2):
            prefix = f"backbone.layer{stage + 1}.{block}"
            table[f"{prefix}.conv1.weight"] = [after, before, 3, 3]
            norm(f"{prefix}.bn1", after)
            table[f"{prefix}.conv2.weight"] = [after, after, 3, 3]
            norm(f"{prefix}.bn2", after)
            if before != after:
                table[f"{prefix}.downsample.0.weight"] = [after, before, 1, 1]
                norm(f"{prefix}.downsample.1", after)
            before = after

    def conv(name, out, into, size):
        table[f"{name}.weight"], table[f"{name}.bias"] = [out, into, size, size], [out]

    for level in range(3):
        conv(f"neck.lateral_convs.{level}.conv", channels, width * 2 ** (level + 1), 1)
    for level in range(5):
        conv(f"neck.fpn_convs.{level}.conv", channels, 8 * width if level == 3 else channels, 3)
    for tower in ("cls_convs", "reg_convs"):
        for layer in range(2):
            conv(f"bbox_head.{tower}.{layer}.conv", channels, channels, 3)
        for layer in (2, 3):
            table[f"bbox_head.{tower}.{layer}.weight"] = [channels, channels, 3, 3]
    conv("bbox_head.reg_convs.3.conv_offset", 27, channels, 3)
    conv("bbox_head.retina_cls", classes, channels, 3)
    conv("bbox_head.retina_reg", 5, channels, 3)
    return table


def sampled(image, y, x):
    """Bilinear value of (C, H, W) at one point, zero outside."""
    _, height, width = image.shape
    low_y, low_x = int(np.floor(y)), int(np.floor(x))
    total = torch.zeros(len(image), dtype=image.dtype)
    for row in (low_y, low_y + 1):
        for column in (low_x, low_x + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return total


def deformable(images, offsets, masks, weight):
    """Modulated deformable 3x3 convolution, padding 1, point by point."""
    count, _, height, width = images.shape
    result = torch.zeros(count, len(weight), height, width, dtype=images.dtype)
    for n in range(count):
        for i in range(height):
            for j in range(width):
                for tap in range(9):
                    y = i + tap // 3 - 1 + float(offsets[n, 2 * tap, i, j])
                    x = j + tap % 3 - 1 + float(offsets[n, 2 * tap + 1, i, j])
                    value = sampled(images[n], y, x) * masks[n, tap, i, j]
                    result[n, :, i, j] += weight[:, :, tap // 3, tap % 3] @ value
    return result


class Network:
    """Forward of one picture; keeps every map under its golden name in `maps`."""

    def __init__(self, state, dilation):
        self.state = {name: value.double() for name, value in state.items()}
        self.dilation, self.maps = dilation, {}

    def conv(self, name, x, stride=1, padding=1, dilation=1):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding, dilation)

    def norm(self, name, x):
        scale, shift, mean, var = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def backbone(self, x):
        x = F.max_pool2d(torch.relu(self.norm("backbone.bn1", self.conv("backbone.conv1", x, 2, 3))), 3, 2, 1)
        outputs = []
        for stage in range(1, 5):
            for block in range(2):
                prefix = f"backbone.layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                inner = torch.relu(self.norm(f"{prefix}.bn1", self.conv(f"{prefix}.conv1", x, stride)))
                inner = self.norm(f"{prefix}.bn2", self.conv(f"{prefix}.conv2", inner))
                if f"{prefix}.downsample.0.weight" in self.state:
                    x = self.norm(f"{prefix}.downsample.1", self.conv(f"{prefix}.downsample.0", x, stride, 0))
                x = torch.relu(x + inner)
            outputs.append(x)
        return outputs

    def neck(self, features):
        laterals = [self.conv(f"neck.lateral_convs.{k}.conv", f, padding=0) for k, f in enumerate(features)]
        for k in (1, 0):
            laterals[k] = laterals[k] + laterals[k + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        outputs = [self.conv(f"neck.fpn_convs.{k}.conv", lateral) for k, lateral in enumerate(laterals)]
        outputs.append(self.conv("neck.fpn_convs.3.conv", features[-1], 2))
        return [*outputs, self.conv("neck.fpn_convs.4.conv", outputs[-1], 2)]

    def tower(self, name, x, level):
        for layer in range(2):
            x = torch.relu(self.conv(f"bbox_head.{name}.{layer}.conv", x))
            self.maps[f"tower_{name}_{layer}_{level}"] = x
        x = self.conv(f"bbox_head.{name}.2", x, 1, self.dilation, self.dilation)
        self.maps[f"tower_{name}_2_{level}"] = x
        return x

    def forward(self, image):
        stages = self.backbone(image.double())
        self.maps |= {f"backbone_c{k}": value for k, value in enumerate(stages, start=2)}
        for number, feature in enumerate(self.neck(stages[1:]), start=3):
            level = f"p{number}"
            classes, boxes = (self.tower(name, feature, level) for name in ("cls_convs", "reg_convs"))
            field = self.conv("bbox_head.reg_convs.3.conv_offset", boxes)
            offset, mask = field[:, :18], torch.sigmoid(field[:, 18:])
            ends = [
                deformable(x, offset, mask, self.state[f"bbox_head.{name}.3.weight"])
                for name, x in (("cls_convs", classes), ("reg_convs", boxes))
            ]
            self.maps |= {
                f"tower_{name}_3_{level}": x for name, x in zip(("cls_convs", "reg_convs"), ends, strict=True)
            }
            self.maps |= {f"fpn_{level}": feature, f"offset_{level}": offset, f"mask_{level}": mask}
            self.maps[f"cls_score_{level}"] = self.conv("bbox_head.retina_cls", ends[0])
            self.maps[f"bbox_pred_{level}"] = self.conv("bbox_head.retina_reg", ends[1])
        return self.maps
