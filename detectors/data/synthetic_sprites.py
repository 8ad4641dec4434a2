"""Things seen from above, drawn with OpenCV: vehicles, ships and planes, and clutter that resembles them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]  # B, G, R, 0..255
SCALE = 2  # canvas pixels an image pixel; the picture is scaled down at the end
FRACTION_BITS = 4

VEHICLE_COLOURS: tuple[Colour, ...] = (
    (235, 235, 235),
    (205, 200, 195),
    (60, 55, 50),
    (45, 40, 180),
    (160, 90, 40),
    (60, 170, 205),
    (120, 120, 120),
)
HULL_COLOURS: tuple[Colour, ...] = ((225, 225, 225), (70, 60, 60), (60, 60, 150), (140, 100, 60), (200, 205, 180))
PLANE_COLOURS: tuple[Colour, ...] = ((240, 240, 240), (225, 220, 210), (185, 185, 190))

HULL = np.array([[-0.5, -0.36], [-0.42, -0.5], [0.12, -0.5], [0.36, -0.28], [0.5, 0.0]])
FUSELAGE = np.array([[-0.5, -0.03], [-0.3, -0.06], [0.35, -0.06], [0.45, -0.04], [0.5, 0.0]])
WINGS = np.array([[0.14, -0.05], [-0.1, -0.5], [-0.2, -0.5], [-0.12, -0.05]])
TAIL = np.array([[-0.34, -0.03], [-0.46, -0.2], [-0.5, -0.2], [-0.48, -0.03]])


@dataclass(frozen=True)
class Pose:
    """A rotated rectangle: centre (px), length along the heading, width across (px), heading (rad, clockwise)."""

    x: float
    y: float
    length: float
    width: float
    angle_rad: float

    def points(self, local: np.ndarray) -> np.ndarray:
        """Return image points (n, 2), px, of local ones; local x along the heading and y to its right, -0.5..0.5."""
        cosine, sine = np.cos(self.angle_rad), np.sin(self.angle_rad)
        scaled = np.asarray(local, np.float64) * (self.length, self.width)
        turned: np.ndarray = scaled @ np.array([[cosine, sine], [-sine, cosine]]) + (self.x, self.y)
        return turned

    def corners(self) -> np.ndarray:
        """Return the four corners (4, 2), px: front left, front right, rear right, rear left."""
        return self.points(np.array([[0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]))

    def moved(self, forward: float, right: float) -> Pose:
        """Return the pose shifted in its own directions, px."""
        x, y = Pose(self.x, self.y, 1, 1, self.angle_rad).points(np.array([[forward, right]]))[0]
        return Pose(float(x), float(y), self.length, self.width, self.angle_rad)


class Canvas:
    """A picture to draw on, SCALE times as fine as the image, with a mask of cast shadows."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image  # (H * SCALE, W * SCALE, 3) uint8 BGR

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a polygon given in image px."""
        cv2.fillPoly(self.image, [fixed_point(points)], colour, cv2.LINE_AA, FRACTION_BITS)

    def line(self, points: np.ndarray, colour: Colour, width_px: float) -> None:
        """Draw a polyline given in image px."""
        thickness = max(1, round(width_px * SCALE))
        cv2.polylines(self.image, [fixed_point(points)], False, colour, thickness, cv2.LINE_AA, FRACTION_BITS)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle given in image px."""
        centre = tuple(int(value) for value in fixed_point(np.array([x, y])))
        reach = max(1, round(radius * SCALE * 2**FRACTION_BITS))
        cv2.circle(self.image, centre, reach, colour, -1, cv2.LINE_AA, FRACTION_BITS)

    def shadow(self, shapes: list[np.ndarray], strength: float, softness_px: float) -> None:
        """Multiply the picture by 1 - strength inside the polygons (px), with soft edges."""
        if not shapes:
            return
        rows, columns = self.window(np.concatenate(shapes), margin_px=3 * softness_px + 1)
        mask = np.zeros(self.image.shape[:2], np.uint8)
        for shape in shapes:
            cv2.fillPoly(mask, [fixed_point(shape)], 255, cv2.LINE_AA, FRACTION_BITS)
        part = self.image[rows, columns]
        if part.size:
            soft = cv2.GaussianBlur(mask[rows, columns], (0, 0), softness_px * SCALE).astype(np.float32)
            part[...] = (part * (1 - strength / 255 * soft)[..., None]).astype(np.uint8)

    def window(self, points: np.ndarray, *, margin_px: float = 0.0) -> tuple[slice, slice]:
        """Return the rows and columns of the canvas around points (n, 2), px, cut at its border."""
        height, width = self.image.shape[:2]
        left, top = (np.floor(points.min(axis=0) - margin_px) * SCALE).astype(int)
        right, bottom = (np.ceil(points.max(axis=0) + margin_px) * SCALE).astype(int)
        rows = slice(min(max(top, 0), height), min(max(bottom, 0), height))
        return rows, slice(min(max(left, 0), width), min(max(right, 0), width))


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Return image px as OpenCV's fixed-point canvas coordinates, int32.

    Image pixel i covers i to i + 1; OpenCV's whole numbers lie at pixel centres.
    """
    fixed: np.ndarray = np.round((np.asarray(points) * SCALE - 0.5) * 2**FRACTION_BITS).astype(np.int32)
    return fixed


def mirrored(half: np.ndarray) -> np.ndarray:
    """Return the closed outline of a shape that is symmetric about its heading."""
    return np.concatenate([half, half[::-1] * (1, -1)])


def outlines(kind: str, pose: Pose) -> list[np.ndarray]:
    """Return the silhouette of an object as polygons in px, for its shadow."""
    if kind == "ship":
        return [pose.points(mirrored(HULL))]
    if kind == "plane":
        return [pose.points(mirrored(FUSELAGE)), *(pose.points(p * (1, s)) for p in (WINGS, TAIL) for s in (1, -1))]
    return [pose.corners()]


def draw_object(canvas: Canvas, kind: str, pose: Pose, rng: np.random.Generator) -> None:
    """Draw a vehicle, ship or plane that fills its pose."""
    {"vehicle": _vehicle, "ship": _ship, "plane": _plane}[kind](canvas, pose, rng)


def shade(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (< 1) or lighter (> 1)."""
    return tuple(float(min(255, value * factor)) for value in colour)  # type: ignore[return-value]


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """Return a random colour of the list, slightly varied."""
    return shade(colours[rng.integers(len(colours))], rng.uniform(0.9, 1.08))


def rectangle(u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
    """Return a local rectangle between u0 and u1 along and v0 and v1 across."""
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


def _vehicle(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    colour = pick(rng, VEHICLE_COLOURS)
    body = np.array([[-0.5, -0.42], [-0.44, -0.5], [0.42, -0.5], [0.5, -0.38]])
    canvas.fill(pose.points(mirrored(body)), colour)
    glass = (70, 60, 50) if sum(colour) > 250 else (165, 150, 140)
    canvas.fill(pose.points(np.array([[0.12, -0.36], [0.26, -0.42], [0.26, 0.42], [0.12, 0.36]])), glass)
    if rng.random() < 0.7:
        canvas.fill(pose.points(rectangle(-0.38, -0.28, -0.36, 0.36)), glass)
        canvas.fill(pose.points(rectangle(-0.26, 0.1, -0.36, 0.36)), shade(colour, 1.1))
    else:  # a pick-up: open bed
        canvas.fill(pose.points(rectangle(-0.46, -0.06, -0.38, 0.38)), shade(colour, 0.6))


def _ship(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    colour = pick(rng, HULL_COLOURS)
    canvas.fill(pose.points(mirrored(HULL)), colour)
    canvas.fill(
        pose.points(mirrored(HULL) * (0.84, 0.7)), (120, 150, 175) if rng.random() < 0.5 else shade(colour, 0.8)
    )
    back = rng.uniform(-0.4, -0.15)
    canvas.fill(pose.points(rectangle(back, back + 0.25, -0.28, 0.28)), (245, 245, 245))
    canvas.fill(pose.points(rectangle(back + 0.19, back + 0.25, -0.28, 0.28)), (80, 65, 55))


def _plane(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    colour = pick(rng, PLANE_COLOURS)
    for side in (1, -1):
        canvas.fill(pose.points(WINGS * (1, side)), shade(colour, 0.88))
        canvas.fill(pose.points(TAIL * (1, side)), shade(colour, 0.88))
        canvas.fill(pose.points(rectangle(-0.02, 0.09, 0.17, 0.23) * (1, side)), (95, 95, 95))
    canvas.fill(pose.points(mirrored(FUSELAGE)), colour)
    canvas.fill(pose.points(rectangle(0.4, 0.44, -0.03, 0.03)), (70, 60, 60))
    canvas.line(pose.points(np.array([[-0.5, 0.0], [-0.38, 0.0]])), pick(rng, ((60, 60, 180), (170, 90, 40))), 1)


def draw_tree(canvas: Canvas, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    """Draw a crown: a few discs of green, lighter towards the middle."""
    green = shade((45, 85, 60), rng.uniform(0.7, 1.25))
    for _ in range(5):
        dx, dy = rng.normal(0, radius * 0.3, 2)
        canvas.disc(x + dx, y + dy, radius * rng.uniform(0.45, 0.7), shade(green, rng.uniform(0.8, 1.1)))
    canvas.disc(x, y, radius * 0.4, shade(green, 1.3))


def draw_building(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Draw a roof, gabled or flat with boxes on it."""
    roof = pick(rng, ((70, 80, 150), (120, 120, 125), (95, 110, 140), (180, 185, 190), (110, 90, 80)))
    canvas.fill(pose.corners(), roof)
    if rng.random() < 0.5:
        canvas.fill(pose.points(rectangle(-0.5, 0.5, 0.0, 0.5)), shade(roof, 0.78))
    else:
        for _ in range(int(rng.integers(1, 5))):
            u, v = rng.uniform(-0.4, 0.3, 2)
            canvas.fill(pose.points(rectangle(u, u + 0.1, v, v + 0.1)), shade(roof, rng.uniform(0.6, 1.3)))


def draw_crate(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Draw a container: of a vehicle's size, but plain and ribbed. It is not to be detected."""
    colour = pick(rng, ((60, 90, 170), (150, 110, 60), (80, 130, 90), (120, 125, 130)))
    canvas.fill(pose.corners(), colour)
    for u in np.linspace(-0.4, 0.4, 6):
        canvas.line(pose.points(np.array([[u, -0.5], [u, 0.5]])), shade(colour, 0.75), 0.5)
