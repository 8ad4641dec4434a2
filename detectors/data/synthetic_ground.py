"""The ground of a synthetic scene: terrain, fields, water, asphalt, and light and noise over the finished picture."""

from __future__ import annotations

import cv2
import numpy as np

from detectors.data.synthetic_sprites import FRACTION_BITS, SCALE, Canvas, Colour, Pose, fixed_point, rectangle, shade

TERRAINS: tuple[Colour, ...] = ((62, 105, 82), (88, 128, 138), (78, 104, 122), (52, 84, 62), (98, 132, 150))
ASPHALT: Colour = (92, 90, 88)
CONCRETE: Colour = (150, 155, 158)


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, ...]) -> np.ndarray:
    """Return smooth noise (height, width) float32, about -1..1, a sum of octaves of the given numbers of cells."""
    total = np.zeros((height, width), np.float32)
    for octave, count in enumerate(cells):
        grid = rng.normal(size=(count, count)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return total / 2


def terrain(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """Return a canvas of `size` (height, width), px, with grass or soil of two colours mixed by noise."""
    height, width = size[0] * SCALE, size[1] * SCALE
    first, second = rng.choice(len(TERRAINS), 2, replace=False)
    blend = (1 / (1 + np.exp(-3 * noise(rng, height, width, (4, 9)))))[..., None]
    image = np.array(TERRAINS[first]) * blend + np.array(TERRAINS[second]) * (1 - blend)
    image *= 1 + 0.16 * noise(rng, height, width, (24, 60, 130))[..., None]
    return Canvas(np.clip(image, 0, 255).astype(np.uint8))


def field(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a ploughed field: a rectangle with furrows."""
    colour = shade(TERRAINS[rng.integers(len(TERRAINS))], rng.uniform(0.8, 1.25))
    texture(canvas, rng, pose.corners(), colour, 0.08)
    for v in np.linspace(-0.48, 0.48, max(4, int(pose.width / rng.uniform(3, 7)))):
        canvas.line(pose.points(np.array([[-0.49, v], [0.49, v]])), shade(colour, 0.86), 0.7)


def texture(canvas: Canvas, rng: np.random.Generator, points: np.ndarray, colour: Colour, contrast: float) -> None:
    """Fill a polygon (n, 2), px, with a colour that varies by noise."""
    rows, columns = canvas.window(points, margin_px=1)
    part = canvas.image[rows, columns]
    if not part.size:
        return
    height, width = part.shape[:2]
    mask = np.zeros(canvas.image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed_point(points)], 255, cv2.LINE_AA, FRACTION_BITS)
    cells = tuple(max(2, min(height, width) // pixels) for pixels in (80, 16, 5))
    grain = 1 + contrast * noise(rng, height, width, cells)
    layer = np.clip(np.array(colour, np.float32) * grain[..., None], 0, 255)
    alpha = mask[rows, columns, None].astype(np.float32) / 255
    part[...] = (part * (1 - alpha) + layer * alpha).astype(np.uint8)


def water(canvas: Canvas, rng: np.random.Generator, points: np.ndarray) -> None:
    """Fill a polygon with water and a brighter shore line."""
    colour = shade((112, 84, 52), rng.uniform(0.7, 1.2))
    texture(canvas, rng, points, colour, 0.1)


def road(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> None:
    """Draw a straight road along the pose with a kerb and a dashed middle line."""
    canvas.fill(pose.points(rectangle(-0.5, 0.5, -0.56, 0.56)), shade(CONCRETE, 0.8))
    texture(canvas, rng, pose.corners(), shade(ASPHALT, rng.uniform(0.75, 1.1)), 0.07)
    for u in np.arange(-0.5, 0.5, 14 / pose.length):
        canvas.line(pose.points(np.array([[u, 0.0], [u + 6 / pose.length, 0.0]])), (205, 205, 205), 0.8)


def finish(canvas: Canvas, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return the picture at image size, uint8 BGR, with cloud shadow, haze, blur and sensor noise."""
    height, width = size
    image: np.ndarray = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    image *= 1 - 0.28 * np.clip(noise(rng, height, width, (3, 5)), 0, 1)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.7))
    haze = rng.uniform(0, 0.16)
    image = image * (1 - haze) + 190 * haze
    image = (image - 110) * rng.uniform(0.85, 1.15) + 110 + rng.uniform(-14, 14)
    image += rng.normal(0, rng.uniform(2, 5), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
