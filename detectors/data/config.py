"""What a recipe says about labelled boxes, whatever the format of their files. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from compress.detector import MAX_WINDOW_PIXELS
from compress.pictures.brightness import range_of_text
from compress.pictures.decoding import Reading

Pixels = Annotated[int, Field(ge=1)]
Size = tuple[Pixels, Pixels]
ValueRange = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(lambda limits: range_of_text(list(limits)))]


class BoxData(BaseModel):
    """What the `data:` part of a recipe says of boxes in any format; each format adds its splits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    SCORING_FIELDS: ClassVar[frozenset[str]] = frozenset({"max_dets"})
    KEYED_IF_SET: ClassVar[frozenset[str]] = frozenset({"value_range"})

    root: str | None = Field(None, description="Folder with one subfolder per split; usually --set data.root=PATH.")
    image_size: Size = Field(description="Deployed input size [height, width], px.")
    value_range: ValueRange | None = Field(
        None,
        description="What becomes 0 and what 255 in pictures of more than 8 bits (thermal cameras: 10 to 16 bits, "
        "floats), e.g. [7000, 8200]; model files carry it. null: what each file holds decides.",
    )
    ignore: tuple[str, ...] = Field((), description="Classes whose boxes are neither trained on nor scored.")
    merge: dict[str, str] = Field(default_factory=dict, description="Class in the files -> class of the detector.")
    crop_size: Size | Pixels | None = Field(
        None, description="Random training crops, [height, width] or the side of a square, px; null: whole images."
    )
    crop_object_probability: float = Field(0.8, ge=0, le=1, description="Share of the crops put around an object.")
    flip_probability: float = Field(
        0.25, ge=0, le=1 / 3, description="Probability of each flip: horizontal, vertical, diagonal."
    )
    brightness_jitter: float = Field(0.0, ge=0, le=1, description="Largest shift of training pixels, share of 255.")
    contrast_jitter: float = Field(0.0, ge=0, lt=1, description="Largest relative change of training contrast.")
    max_train_images: int | None = Field(
        None, ge=1, description="Train on so many images only, evenly spread over the sorted names; null: on all."
    )
    min_edge_px: float = Field(
        0.0, ge=0, description="Training drops boxes with a shorter edge (official DCFL: 2). Scoring keeps them."
    )
    train_difficulty: int = Field(
        0,
        ge=0,
        le=2,
        description="Training takes boxes up to this value of the column difficult as truth: 1 difficult, 2 cut by the "
        "border of a patch (official DCFL: 2). Others are ignored. Scoring ignores all above 0.",
    )
    max_dets: int = Field(
        100,
        ge=1,
        description="So many detections of a class in an image, the best ones, count for map and map75 (COCO: 100). "
        "Images with more objects of a class need more: their recall ends there.",
    )
    num_workers: int = Field(0, ge=0, description="Processes that load training images; changes no result.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for field, size in (("image_size", self.image_size), ("crop_size", self.crop)):
            if size is not None and size[0] * size[1] > MAX_WINDOW_PIXELS:
                raise ValueError(
                    f"{field}: {size[0]} x {size[1]} px are more than the {MAX_WINDOW_PIXELS:,} that a network looks at"
                    " at once; larger pictures are looked at in windows of image_size"
                )
        both = sorted(set(self.ignore) & set(self.merge))
        if both:
            raise ValueError(f"class {both[0]!r} is in ignore and in merge; keep it in one of them")
        return self

    @property
    def reading(self) -> Reading:
        """Return how the picture files are read."""
        return Reading(self.value_range)

    @property
    def crop(self) -> Size | None:
        """Return the training crop as (height, width), px, or None."""
        return (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size
