"""What is wrong with the files of a data set: what is refused, what is dropped and told, and how both are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.errors import DataError
from compress.progress import warn
from detectors.data.labels import DroppedBox, dropped_text
from detectors.data.samples import Sample

MAX_LISTED = 20


@dataclass(frozen=True)
class Findings:
    """What a look at a split found, for one rule everywhere: mistakes are refused, empty boxes dropped and told.

    Attributes:
        mistakes: 'file:line: what is wrong, what was expected.'
        dropped: place of each box that holds nothing of its image, and why; its file is right without it.
        flat: pictures that are nearly without contrast, and why.
        pictures: number of them in the split.
    """

    mistakes: tuple[str, ...]
    dropped: tuple[str, ...]
    flat: tuple[str, ...]
    pictures: int

    @classmethod
    def of(cls, samples: Sequence[Sample], found: Sequence[str]) -> Findings:
        """Return what `BoxDataset.read` gave, sorted by what becomes of it."""
        return cls(
            tuple(each for each in found if not isinstance(each, DroppedBox)),
            tuple(str(each) for each in found if isinstance(each, DroppedBox)),
            tuple(f"{sample.image_path}: {sample.flat}" for sample in samples if sample.flat),
            len(samples),
        )

    def tell(self, split: str) -> None:
        """Warn about boxes that are dropped and pictures that are nearly flat, one line each."""
        if self.dropped:
            warn(f"data split '{split}': {dropped_text(self.dropped)}")
        if self.flat:
            warn(
                f"data split '{split}': {len(self.flat)} of {self.pictures} pictures are nearly flat, e.g. "
                f"{self.flat[0]}"
            )


def raise_all(what: str, problems: Sequence[str], *, advice: str = "Fix these files and start again:") -> None:
    """Raise one DataError that lists problems (the first 20 and the count), if there are any.

    Args:
        what: is wrong: a split, a file.
        problems: what is wrong with it.
        advice: stands before the list.
    """
    if not problems:
        return
    listed = "\n".join(f"  {problem}" for problem in problems[:MAX_LISTED])
    more = f"\n  ... and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError(f"{what}: {count}, expected none. {advice}\n{listed}{more}")
