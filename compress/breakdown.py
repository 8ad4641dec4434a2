"""What a score is made of: curves, scores, kinds of errors, and every image. Data only; a data set fills it in."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from compress.whole_file import write_whole

FILE = "breakdown.json"
# In the order in which TIDE tells them: wrong class, badly placed, both, found twice, nothing there, not found.
ERROR_NAMES = ("cls", "loc", "both", "dupe", "bkg", "missed")

Corners = tuple[float, float, float, float, float, float, float, float]  # x1, y1, ..., x4, y4, px of the image


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorType(_Part):
    """One of TIDE's kinds of errors."""

    name: str = Field(description=f"One of {', '.join(ERROR_NAMES)}.")
    count: int
    points: float = Field(description="By which `map50_coco` would rise if all of them were put right, 0..100.")


class Curve(_Part):
    """Precision over recall of one class, at the overlap of the breakdown."""

    name: str
    objects: int
    precision: list[float] = Field(description="Reached at recall 0, 0.01, ..., 1 or beyond; 0 where it never is.")


class ImageOutcome(_Part):
    """What was found in one image by detections that score at least the threshold of the breakdown."""

    name: str
    objects: int
    found: int
    wrong: int = Field(description="Detections that found nothing new; those on ignored objects do not count.")
    missed_corners: list[Corners] = Field(default_factory=list, description="Of the objects that were not found.")
    wrong_corners: list[Corners] = Field(default_factory=list, description="Of the detections that are wrong.")

    @property
    def missed(self) -> int:
        """Return how many objects were not found."""
        return self.objects - self.found

    @property
    def f1(self) -> float:
        """Return 2 found / (2 found + missed + wrong), 1 where there is nothing to be found and nothing was."""
        total = 2 * self.found + self.missed + self.wrong
        return 2 * self.found / total if total else 1.0


class Breakdown(_Part):
    """What the score of one model on one split is made of."""

    iou_threshold: float = Field(description="Overlap that makes a match.")
    background_iou: float = Field(description="Overlap below which a detection is on nothing.")
    score_threshold: float = Field(description="Of what counts in `images`.")
    errors: list[ErrorType]
    curves: list[Curve]
    right_by_score: list[int] = Field(description="Right detections by score, in equal parts of 0..1.")
    wrong_by_score: list[int] = Field(description="Wrong ones, likewise.")
    images: list[ImageOutcome]

    def save(self, folder: Path) -> None:
        """Write it beside the scores."""
        write_whole(folder / FILE, self.model_dump_json())

    def without_corners(self) -> Breakdown:
        """Return it without the corners of what was missed and what was wrong: they are most of it."""
        images = [image.model_copy(update={"missed_corners": [], "wrong_corners": []}) for image in self.images]
        return self.model_copy(update={"images": images})


def load_breakdown(folder: Path) -> Breakdown | None:
    """Return what `Breakdown.save` wrote, None if nothing was."""
    path = folder / FILE
    return Breakdown.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
