"""Synthetic aerial scenes with exact labels: ships, vehicles and planes. The seed decides everything.

Each scene has one or two of: a car park, a road, a harbour, an airfield; and fields, roofs, trees and containers
around them. Some objects are difficult (under trees, or cut by the border), some regions are `dontcare`, and
some images are empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from compress.errors import DataError
from detectors.data import synthetic_ground as ground
from detectors.data.synthetic_sprites import (
    SCALE,
    Pose,
    draw_building,
    draw_crate,
    draw_object,
    draw_tree,
    outlines,
)

CLASSES = ("ship", "vehicle", "plane")
IGNORED_CLASS = "dontcare"


@dataclass(frozen=True)
class SceneSettings:
    """What decides the content of a data set.

    Attributes:
        seed: any integer >= 0.
        size: height and width of every image, px.
        object_px: shortest and longest object, px.
        counts: split -> number of images.
        empty_share: share of images without objects.
    """

    seed: int = 0
    size: tuple[int, int] = (256, 256)
    object_px: tuple[int, int] = (6, 40)
    counts: Mapping[str, int] = field(default_factory=lambda: {"train": 200, "val": 40, "test": 60})
    empty_share: float = 0.05

    def __post_init__(self) -> None:
        low, high = self.object_px
        if min(self.size) < 64:
            raise DataError(f"synthetic: size is {self.size[0]} x {self.size[1]} px, expected at least 64 x 64.")
        if not 4 <= low <= high <= min(self.size) // 2:
            raise DataError(
                f"synthetic: object_px is {low} to {high}, expected 4 <= shortest <= longest <= half the image."
            )
        if min(self.counts.values(), default=0) < 1:
            raise DataError(f"synthetic: counts are {dict(self.counts)}, expected at least one image a split.")


@dataclass(frozen=True)
class SceneObject:
    """One labelled thing."""

    kind: str
    pose: Pose
    difficult: bool

    def line(self) -> str:
        """Return its DOTA label line."""
        corners = " ".join(f"{value:.2f}" for value in self.pose.corners().reshape(-1))
        return f"{corners} {self.kind} {int(self.difficult)}\n"


class Scene:
    """A scene under construction: the ground is drawn at once, objects are collected and drawn by `render`."""

    def __init__(self, rng: np.random.Generator, settings: SceneSettings) -> None:
        self.rng = rng
        self.size = settings.size
        self.canvas = ground.terrain(rng, settings.size)
        self.objects: list[SceneObject] = []
        self.regions: list[SceneObject] = []
        self.taken = np.zeros(settings.size, np.uint8)  # under objects, roofs and trees
        self.zoned = np.zeros(settings.size, np.uint8)  # under car parks, roads, water and aprons
        low, high = settings.object_px
        reach = high - low
        # One ground resolution a scene: objects of a class have similar lengths in it.
        self.lengths = {
            "vehicle": rng.uniform(low + 0.05 * reach, low + 0.4 * reach),
            "ship": rng.uniform(low + 0.25 * reach, low + 0.9 * reach),
            "plane": rng.uniform(low + 0.35 * reach, low + 0.9 * reach),
        }
        self.limits = (float(low), float(high))

    def pose(self, kind: str, x: float, y: float, angle_rad: float) -> Pose:
        """Return a pose of the typical size of its kind in this scene, a little varied."""
        length = float(np.clip(self.lengths[kind] * self.rng.uniform(0.88, 1.12), *self.limits))
        low, high = {"vehicle": (0.42, 0.52), "ship": (0.26, 0.38), "plane": (0.82, 0.94)}[kind]
        return Pose(x, y, length, max(length * self.rng.uniform(low, high), 3.0), angle_rad)

    def place(self, kind: str, pose: Pose) -> bool:
        """Add an object unless its centre is outside or it would touch another one."""
        height, width = self.size
        if not (2 <= pose.x < width - 2 and 2 <= pose.y < height - 2) or not self.occupy(pose):
            return False
        corners = pose.corners()
        inside = np.clip(corners, 0, (width, height))
        cut = cv2.contourArea(inside.astype(np.float32)) < 0.6 * pose.length * pose.width
        self.objects.append(SceneObject(kind, pose, bool(cut)))
        return True

    def occupy(self, pose: Pose, *, off_zones: bool = False) -> bool:
        """Reserve the ground under a pose; False if some of it is taken (or, on request, lies in a zone)."""
        mask = self._mask(pose)
        blocked = self.taken | self.zoned if off_zones else self.taken
        if (blocked & mask).any():
            return False
        self.taken |= mask
        return True

    def claim(self, pose: Pose) -> bool:
        """Make a zone of the ground under a pose; False if more than 5 % of it belongs to one already."""
        mask = self._mask(pose)
        if np.count_nonzero(self.zoned & mask) > 0.05 * max(np.count_nonzero(mask), 1):
            return False
        self.zoned |= mask
        return True

    def site(self, length: float, width: float) -> Pose | None:
        """Claim a free place for a zone of that size, px; None if there seems to be none."""
        for _ in range(12):
            x, y, angle = self.anywhere()
            pose = Pose(x, y, length, width, angle)
            if self.claim(pose):
                return pose
        return None

    def _mask(self, pose: Pose) -> np.ndarray:
        mask = np.zeros_like(self.taken)
        cv2.fillConvexPoly(mask, np.round(pose.corners()).astype(np.int32), 255)
        return mask

    def anywhere(self) -> tuple[float, float, float]:
        """Return a random x, y (px) and heading (rad)."""
        x, y = self.rng.uniform(0, self.size[1]), self.rng.uniform(0, self.size[0])
        return float(x), float(y), float(self.rng.uniform(0, 2 * np.pi))


def car_park(scene: Scene) -> None:
    """Lay out rows of marked slots, most of them taken."""
    rng, length = scene.rng, scene.lengths["vehicle"]
    slots, rows = int(rng.integers(6, 13)), int(rng.integers(2, 6))
    pitch, depth = max(length * 0.5, 3.0) * 1.32 + 0.6, length * 1.25
    lot = scene.site(slots * pitch + length, rows * depth * 1.3 + length)
    if lot is None:
        return
    angle = lot.angle_rad
    ground.texture(scene.canvas, rng, lot.corners(), ground.ASPHALT, 0.08)
    fill = rng.uniform(0.6, 0.95)
    for row in range(rows):
        across = (row - (rows - 1) / 2) * depth + (row // 2 - (rows - 1) / 4) * depth * 0.6
        for slot in range(slots):
            along = (slot - (slots - 1) / 2) * pitch
            spot = lot.moved(along, across)
            side = Pose(spot.x, spot.y, pitch, depth, angle).points(np.array([[-0.5, -0.5], [-0.5, 0.5]]))
            scene.canvas.line(side, (190, 190, 190), 0.5)
            if rng.random() < fill:
                heading = angle + np.pi / 2 + np.pi * rng.integers(2) + rng.normal(0, 0.03)
                scene.place("vehicle", scene.pose("vehicle", spot.x, spot.y, heading))


def street(scene: Scene) -> None:
    """Lay a road across the image with traffic in both directions."""
    rng, length = scene.rng, scene.lengths["vehicle"]
    long = 2.0 * max(scene.size)
    way = scene.site(long, max(length * 1.7, 9))
    if way is None:
        return
    angle = way.angle_rad
    ground.road(scene.canvas, rng, way)
    for lane in (-0.26, 0.26):
        along = -long / 2
        while along < long / 2:
            spot = way.moved(along, lane * way.width)
            heading = angle + (0 if lane < 0 else np.pi) + rng.normal(0, 0.04)
            scene.place("vehicle", scene.pose("vehicle", spot.x, spot.y, heading))
            along += length * rng.uniform(1.3, 7)


def harbour(scene: Scene) -> None:
    """Flood one side of the image, with piers, moored rows and ships under way."""
    rng, length = scene.rng, scene.lengths["ship"]
    height, width = scene.size
    angle = float(rng.uniform(0, 2 * np.pi))
    far = 2.0 * max(height, width)
    shore = Pose(width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65), far, far, angle)
    side = shore.moved(0, far / 2)
    scene.claim(side)
    ground.water(scene.canvas, rng, side.corners())
    scene.canvas.line(shore.points(np.array([[-0.5, 0.0], [0.5, 0.0]])), (170, 175, 175), 3)
    pitch = length * 0.32 * 1.3 + 1.5
    for along in np.arange(-far / 4, far / 4, length * 2 + 26):
        start = shore.moved(float(along), 0)
        ships = int(rng.integers(3, 10))
        pier = Pose(start.x, start.y, 6, (ships + 1) * pitch * 2, angle)
        scene.canvas.fill(pier.corners(), (135, 145, 150))
        scene.occupy(pier)
        for berth in range(ships):
            for direction in (1, -1):
                if rng.random() < 0.75:
                    spot = start.moved(direction * (length * 0.56 + 4.5), (berth + 0.9) * pitch)
                    heading = angle + (0 if direction > 0 else np.pi) + rng.normal(0, 0.03)
                    scene.place("ship", scene.pose("ship", spot.x, spot.y, heading))
    for _ in range(int(rng.integers(1, 6))):
        spot = shore.moved(rng.uniform(-far / 4, far / 4), rng.uniform(min(length * 2, far / 4), far / 4))
        pose = scene.pose("ship", spot.x, spot.y, float(rng.uniform(0, 2 * np.pi)))
        if scene.place("ship", pose):
            wake = pose.points(np.array([[-0.5, 0.1], [-1.6, 0.55], [-1.3, 0.0], [-1.6, -0.55], [-0.5, -0.1]]))
            scene.canvas.fill(wake, (150, 140, 125))


def airfield(scene: Scene) -> None:
    """Pour an apron with a taxi line and parked planes."""
    rng, length = scene.rng, scene.lengths["plane"]
    count, rows = int(rng.integers(3, 8)), int(rng.integers(1, 3))
    apron = scene.site((count + 1) * length * 1.2, (rows + 0.8) * length * 1.7)
    if apron is None:
        return
    angle = apron.angle_rad
    ground.texture(scene.canvas, rng, apron.corners(), ground.CONCRETE, 0.05)
    scene.canvas.line(apron.points(np.array([[-0.5, 0.46], [0.5, 0.46]])), (60, 190, 215), 1)
    heading = angle + np.pi / 2 + rng.uniform(-0.6, 0.6)
    for row in range(rows):
        for stand in range(count):
            spot = apron.moved((stand - (count - 1) / 2) * length * 1.2, (row - (rows - 1) / 2) * length * 1.5)
            if rng.random() < 0.8:
                scene.place("plane", scene.pose("plane", spot.x, spot.y, heading + rng.normal(0, 0.05)))


def scatter(scene: Scene, *, with_objects: bool) -> None:
    """Add roofs, containers, fields' neighbours, and single objects off their usual places."""
    rng = scene.rng
    if with_objects:
        for kind in CLASSES:
            for _ in range(int(rng.integers(0, 4))):
                scene.place(kind, scene.pose(kind, *scene.anywhere()))
    scale = float(np.sqrt(scene.size[0] * scene.size[1])) / 256
    for draw, share, low, high in ((draw_building, 5, 20, 55), (draw_crate, 6, 7, 20)):
        for _ in range(int(rng.poisson(share * scale))):
            x, y, angle = scene.anywhere()
            length = float(rng.uniform(low, high))
            pose = Pose(x, y, length, length * float(rng.uniform(0.45, 0.9)), angle)
            if scene.occupy(pose, off_zones=True):
                _cast(scene, [pose.corners()], height_px=length * 0.14)
                draw(scene.canvas, pose, rng)


def blurred_group(scene: Scene) -> None:
    """Add a crowd of things too unclear to be counted, labelled as one ignored region."""
    rng = scene.rng
    x, y, angle = scene.anywhere()
    side = float(rng.uniform(1.6, 3.0)) * scene.lengths["vehicle"] + 6
    region = Pose(
        float(np.clip(x, side, scene.size[1] - side)),
        float(np.clip(y, side, scene.size[0] - side)),
        side,
        side * 0.8,
        angle,
    )
    if not scene.occupy(region):
        return
    for u, v in rng.uniform(-0.3, 0.3, (5, 2)):
        spot = region.moved(u * side, v * side)
        draw_object(scene.canvas, "vehicle", scene.pose("vehicle", spot.x, spot.y, float(rng.uniform(0, 6.28))), rng)
    part = scene.canvas.image[scene.canvas.window(region.corners())]
    part[...] = cv2.GaussianBlur(part, (0, 0), 2.2 * SCALE)
    scene.regions.append(SceneObject(IGNORED_CLASS, region, False))


def render(scene: Scene) -> tuple[np.ndarray, list[SceneObject]]:
    """Draw shadows, objects and trees; return the image (H, W, 3) uint8 BGR and the labelled objects."""
    rng = scene.rng
    for item in scene.objects:
        _cast(scene, outlines(item.kind, item.pose), height_px=0.1 * item.pose.length + 0.8)
    for item in scene.objects:
        draw_object(scene.canvas, item.kind, item.pose, rng)
    objects = [_maybe_hidden(scene, item) for item in scene.objects]
    for _ in range(int(rng.poisson(14 * scene.size[0] * scene.size[1] / 256**2))):
        x, y, _ = scene.anywhere()
        radius = float(rng.uniform(2.5, 8))
        if scene.occupy(Pose(x, y, 2.4 * radius, 2.4 * radius, 0.0), off_zones=True):
            draw_tree(scene.canvas, x, y, radius, rng)
    return ground.finish(scene.canvas, rng, scene.size), objects + scene.regions


def make_scene(settings: SceneSettings, stream: tuple[int, ...]) -> tuple[np.ndarray, list[SceneObject]]:
    """Return one image (H, W, 3) uint8 BGR and its objects.

    Args:
        settings: of the data set.
        stream: which image; with the seed it decides the random numbers.
    """
    rng = np.random.default_rng([settings.seed, *stream])
    scene = Scene(rng, settings)
    for _ in range(int(rng.integers(0, 4))):
        x, y, angle = scene.anywhere()
        ground.field(scene.canvas, rng, Pose(x, y, float(rng.uniform(50, 140)), float(rng.uniform(40, 90)), angle))
    with_objects = rng.random() >= settings.empty_share
    if with_objects:
        layouts: list[Callable[[Scene], None]] = [harbour, street, airfield, car_park]
        chosen = rng.choice(len(layouts), int(rng.integers(1, 4)), replace=False)
        for index in sorted(chosen):  # the large ones first
            layouts[index](scene)
        if rng.random() < 0.2:
            blurred_group(scene)
    scatter(scene, with_objects=with_objects)
    return render(scene)


def _cast(scene: Scene, shapes: list[np.ndarray], *, height_px: float) -> None:
    """Darken the ground beside something that stands `height_px` tall; the sun is the same in the whole scene."""
    offset = np.array([0.8, 0.6]) * height_px
    scene.canvas.shadow([shape + offset for shape in shapes], strength=0.5, softness_px=0.4)


def _maybe_hidden(scene: Scene, item: SceneObject) -> SceneObject:
    """Let a tree grow over one object in 30, which makes it difficult."""
    if scene.rng.random() > 1 / 30:
        return item
    spot = item.pose.moved(item.pose.length * float(scene.rng.uniform(-0.3, 0.3)), 0)
    draw_tree(scene.canvas, spot.x, spot.y, max(2.5, min(0.45 * item.pose.length, 0.8 * item.pose.width)), scene.rng)
    return SceneObject(item.kind, item.pose, True)
