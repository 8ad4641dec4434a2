"""Where a patch lies in its image: three programs write IMAGE__NUMBER__X___Y and mean three things by it.

- `krimp`: NUMBER is the side of the window in pixels of the image; all patches are squares of one size, brought to it
  where the window had another, and padded.
- `mmrotate` (BboxToolkit): NUMBER is the side of the window; the patch has the image's own pixels and, without padding,
  is smaller where the image ends.
- `devkit` (DOTA_devkit): NUMBER is the rate at which the image was resized before it was cut, and X and Y are pixels of
  the resized image.

Which one it is shows in the size of the patches; what fits none, or more than one, is refused. Imports no torch.

Source:
    MMRotate, tools/data/dota/split/img_split.py (`crop_and_save_img`); DOTA_devkit, ImgSplit_multi_process.py
    (`SplitSingle`) and ResultMerge.py (`poly2origpoly`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from compress.errors import DataError

Convention = Literal["krimp", "mmrotate", "devkit"]
LARGEST_RATE = 16  # a whole number below is a rate: no window has so few pixels
_NAME = re.compile(r"(?P<image>.+)__(?P<number>\d{1,9}(?:\.\d{1,9})?)__(?P<x>\d{1,9})___(?P<y>\d{1,9})")


@dataclass(frozen=True)
class PatchName:
    """The parts of a patch's name.

    Attributes:
        text: all of it.
        image: name of the image.
        number: side of the window, px, or rate.
        is_rate: the number can only be a rate.
        x, y: left and top, px.
    """

    text: str
    image: str
    number: float
    is_rate: bool
    x: int
    y: int

    @classmethod
    def of(cls, text: str) -> PatchName:
        """Return the parts of a name.

        Raises:
            DataError: it is no name of a patch.
        """
        match = _NAME.fullmatch(text)
        if match is None or float(match["number"]) <= 0:
            raise DataError(
                f"{text}: no patch name, expected IMAGE__SIDE__X___Y as `krimp data prepare-dota` and MMRotate write, "
                "or IMAGE__RATE__X___Y as DOTA_devkit does."
            )
        number = float(match["number"])
        is_rate = "." in match["number"] or number < LARGEST_RATE
        return cls(text, match["image"], number, is_rate, int(match["x"]), int(match["y"]))


@dataclass(frozen=True)
class Place:
    """Where a patch lies.

    Attributes:
        scale: pixels of the image for one of the patch.
        x, y: left and top, pixels of the image.
    """

    scale: float
    x: float
    y: float


Size = tuple[int, int]  # (height, width), px


def convention_of(patches: Sequence[tuple[PatchName, Size]]) -> Convention:
    """Return who cut a set of patches, read off their names and sizes.

    Args:
        patches: name and (height, width) of each, px.

    Raises:
        DataError: they fit no convention, or two of them.
    """
    rates = [name for name, _ in patches if name.is_rate]
    if rates:
        if len(rates) < len(patches):
            other = next(name for name, _ in patches if not name.is_rate)
            raise DataError(f"{rates[0].text} and {other.text}: names of two programs. Give the patches of one alone.")
        return "devkit"
    sizes: dict[float, set[Size]] = defaultdict(set)
    for name, size in patches:
        sizes[name.number].add(size)
    cut = [name for name, size in patches if size[0] != size[1] or len(sizes[name.number]) > 1]
    starts: dict[str, tuple[int, int]] = {}  # of each image, the farthest: it is larger than that
    for name, _ in patches:
        left, top = starts.get(name.image, (0, 0))
        starts[name.image] = max(left, name.x), max(top, name.y)
    resized = [
        name
        for name, (height, width) in patches
        if width > name.number
        or (
            width < name.number
            and (name.x or name.y or starts[name.image][0] >= width or starts[name.image][1] >= height)
        )
    ]
    if cut:
        return "mmrotate"  # `place_of` refuses the ones that do not fit
    widths = sorted({width for _, (_, width) in patches}, reverse=True)
    if resized and len(widths) > 1:
        raise DataError(
            f"{resized[0].text}: windows are brought to {' and '.join(map(str, widths))} px, expected one size. Give "
            "the patches of one preparation alone."
        )
    if resized or all(size == (name.number, name.number) for name, size in patches):
        return "krimp"
    name, (height, width) = next((name, size) for name, size in patches if size[0] != name.number)
    raise DataError(
        f"{name.text}: {width} x {height} px may be a window of {name.number:g} px brought to that size, or a smaller "
        f"image without padding. Say who cut it: --patch-names {' or '.join(get_args(Convention)[:2])}."
    )


def place_of(name: PatchName, size: Size, convention: Convention) -> Place:
    """Return where a patch lies in its image.

    Args:
        name: of the patch.
        size: (height, width) of the patch, px.
        convention: who cut it.

    Raises:
        DataError: its size does not fit its name.
    """
    height, width = size
    if convention == "devkit":
        if not name.is_rate:
            raise _misfit(name, size, f"a rate below {LARGEST_RATE}")
        return Place(1 / name.number, name.x / name.number, name.y / name.number)
    if name.is_rate:
        raise _misfit(name, size, f"a side of {LARGEST_RATE} px or more")
    if convention == "krimp":
        if height != width:
            raise _misfit(name, size, "a square")
        return Place(name.number / width, name.x, name.y)
    for side, start in ((width, name.x), (height, name.y)):
        if side > name.number or (side < name.number and start > 0):
            raise _misfit(name, size, f"{name.number:g} px a side, or less only where the image ends before its start")
    return Place(1.0, name.x, name.y)


def places_of(
    records: Sequence[Mapping[str, object]], convention: Convention | None = None
) -> list[tuple[PatchName, Place]]:
    """Return name and place of each record of a patch.

    Args:
        records: with `name`, `width` and, where it is not square, `height`, px.
        convention: who cut them; None: their names and sizes tell.

    Raises:
        DataError: a name is none of a patch, or does not fit the size.
    """
    patches = []
    for record in records:
        width = int(str(record["width"]))
        height = int(str(record.get("height", width)))
        if min(width, height) < 1:
            raise DataError(f"{record['name']}: {width} x {height} px, expected a size of at least 1 x 1.")
        patches.append((PatchName.of(str(record["name"])), (height, width)))
    if not patches:
        return []
    convention = convention or convention_of(patches)
    return [(name, place_of(name, size, convention)) for name, size in patches]


def _misfit(name: PatchName, size: Size, expected: str) -> DataError:
    return DataError(
        f"{name.text}: {size[1]} x {size[0]} px do not fit its name, expected {expected}. Take the patches as they "
        "were cut, or say who cut them with --patch-names."
    )
