"""A small DOTA in the official layout, and MMRotate's way to cut it written once more, plainly, without a library."""

import math

import cv2
import numpy as np

SIZE, OVERLAP = 256, 64


def quad_of(cx, cy, w, h, angle):
    """Return corners of a rectangle as whole pixels, clockwise."""
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    return [round(v) for x, y in corners for v in (cx + x * cos - y * sin, cy + x * sin + y * cos)]


def draw(rng, height, width, channels=3, depth=8):
    low = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, channels))
    image = cv2.resize(low.astype(np.float32), (width, height)).reshape(height, width, channels)
    image = image * 257 if depth == 16 else image
    return (image[..., 0] if channels == 1 else image).astype(np.uint16 if depth == 16 else np.uint8)


def write_tree(root, version="1.0", splits=("train", "val", "test"), seed=0):
    """Write images of all awkward kinds: smaller than a patch, exact, long, grey, 16 bits; objects across borders."""
    rng = np.random.default_rng(seed)
    number = 0
    for split in splits:
        images = root / split / "images"
        labels = (
            root / split / f"labelTxt-v{version}" / ("labelTxt" if version == "1.0" else f"DOTA-v{version}_{split}")
        )
        images.mkdir(parents=True)
        if not split.startswith("test"):
            labels.mkdir(parents=True)
            horizontal = labels.parent / (
                f"{split}set_reclabelTxt" if version == "1.0" else f"DOTA-v{version}_{split}_hbb"
            )
            horizontal.mkdir()
            (horizontal / "P0000.txt").write_text("not to be read\n")
        kinds = [(100, 180), (SIZE, SIZE), (150, 900), (500, 430), (700, 257)]
        for index, (height, width) in enumerate(kinds):
            name = f"P{number:04d}"
            number += 1
            channels, depth = ((3, 8), (1, 8), (3, 16), (1, 16), (3, 8))[index]
            assert cv2.imwrite(str(images / f"{name}.png"), draw(rng, height, width, channels, depth))
            if not split.startswith("test"):
                (labels / f"{name}.txt").write_text("imagesource:GoogleEarth\ngsd:0.1\n" + objects(rng, height, width))
    return root


def objects(rng, height, width):
    """Return label lines on a grid (so that no two objects overlap), many of them across the borders of patches."""
    lines = []
    for cy in range(24, height - 10, 44):
        for cx in range(24, width - 10, 60):
            quad = quad_of(cx + rng.integers(-6, 7), cy + rng.integers(-4, 5), 34, 14, rng.uniform(-0.5, 0.5))
            kind = ("plane", "ship", "small-vehicle")[rng.integers(3)]
            lines.append(f"{' '.join(f'{v:.1f}' for v in quad)} {kind} {int(rng.random() < 0.15)}\n")
    return "".join(lines)


def reference_patches(image, text, size, overlap, rates=(1.0,), share=0.6, iof=0.7, padding=(104, 116, 124)):
    """Return patch name -> (pixels, label lines), in the image's own pixels at every rate."""
    height, width = image.shape[:2]
    windows = []
    for rate in rates:
        side, gap = int(size / rate), int(overlap / rate)
        for x in reference_starts(width, side, side - gap):
            for y in reference_starts(height, side, side - gap):
                windows.append((side, x, y))
    filled = [max(0, min(x + s, width) - x) * max(0, min(y + s, height) - y) / (s * s) for s, x, y in windows]
    if max(filled) > share:
        kept = [w for w, f in zip(windows, filled, strict=True) if f > share]
    else:
        kept = [w for w, f in zip(windows, filled, strict=True) if max(filled) - f < 0.01]
    found = {}
    for side, x, y in kept:
        pixels = np.zeros((side, side, 3), np.uint8) + np.array(padding, np.uint8)
        part = image[y : y + side, x : x + side]
        pixels[: part.shape[0], : part.shape[1]] = part
        lines = []
        for line in text.splitlines():
            items = line.split()
            if len(items) < 9:
                continue
            points = [(float(items[i]), float(items[i + 1])) for i in range(0, 8, 2)]
            inside = area(clip(points, x, y, x + side, y + side)) / area(points)
            if inside >= iof:
                corners = " ".join(f"{p[0] - x} {p[1] - y}" for p in points)
                lines.append(f"{corners} {items[8]} {2 if inside < 1 else items[9]}")
        found[side, x, y] = pixels, lines
    return found


def reference_starts(length, side, step):
    starts = [0]
    while starts[-1] + side < length:
        starts.append(min(starts[-1] + step, length - side))
    return starts


def area(points):
    total = 0.0
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        total += x1 * y2 - x2 * y1
    return abs(total) / 2


def clip(points, left, top, right, bottom):
    """Cut a polygon to a rectangle, one side after the other (Sutherland and Hodgman)."""
    for axis, limit, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        kept = []
        for a, b in zip(points, points[1:] + points[:1], strict=True):
            da, db = sign * (a[axis] - limit), sign * (b[axis] - limit)
            if da >= 0:
                kept.append(a)
            if da * db < 0:
                t = da / (da - db)
                kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
        points = kept
        if not points:
            return []
    return points
