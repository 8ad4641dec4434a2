"""Stage `load_float`: the plug-in's model with its checkpoint; the implicit first stage `float`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from compress.errors import DetectorError
from compress.stage import Kind, Stage, StageContext


class LoadFloat(Stage):
    """Build the detector and load the weights that the recipe names."""

    MAKES: ClassVar[Kind] = Kind.MODEL
    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch",)

    stage: Literal["load_float"]

    def run(self, context: StageContext) -> dict[str, Any]:
        """Save the float model.

        Raises:
            DetectorError: the recipe names no checkpoint, or it does not fit the model.
        """
        from compress.metrics.model_facts import model_facts
        from compress.weights import Build, save_model

        detector = context.detector
        checkpoint = detector.checkpoint_path()
        if checkpoint is None:
            raise DetectorError(
                "detector.checkpoint: the recipe names no float weights and has no train stage. "
                "Set detector.checkpoint, or put a train stage first."
            )
        model = detector.build()
        detector.load(model, checkpoint)
        model.eval()
        save_model(context.folder, model, Build())
        return model_facts(model, detector)
