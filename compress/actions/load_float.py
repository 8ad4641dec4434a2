"""Action of stage `load_float`: the plug-in's model with its checkpoint; the implicit first stage `float`."""

from __future__ import annotations

from typing import Any

from compress.actions.model_facts import model_facts
from compress.errors import DetectorError
from compress.model_folder import Build, save_model
from compress.stage import StageContext
from compress.stages.load_float import LoadFloat


def run(stage: LoadFloat, context: StageContext) -> dict[str, Any]:
    """Save the float model.

    Raises:
        DetectorError: the recipe names no checkpoint, or it does not fit the model.
    """
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
