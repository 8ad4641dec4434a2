"""Stage `load_float`: the plug-in's model with its checkpoint; the implicit first stage `float`."""

from __future__ import annotations

from typing import ClassVar, Literal

from compress.kind import Kind
from compress.stage import Stage


class LoadFloat(Stage):
    """Build the detector and load the weights that the recipe names."""

    MAKES: ClassVar[Kind] = Kind.MODEL
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch",)
    ACTION: ClassVar[str] = "compress.actions.load_float"

    stage: Literal["load_float"]
