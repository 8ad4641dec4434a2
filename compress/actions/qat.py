"""Action of stage qat: quantize, calibrate on real images, then train with the rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from compress.actions.model_facts import model_facts, training_facts
from compress.devices import on_device
from compress.model_folder import keep_zeros, load_model, masks_of, save_model
from compress.progress import track
from compress.quantization import quantize
from compress.quantization.calibration import first_images
from compress.quantization.checks import check_bit_width_names, check_zeros, quantization_facts
from compress.quantization.post_training import post_train
from compress.stage import StageContext
from compress.stages.qat import Qat
from compress.training.in_stage import train_in_stage


def run(stage: Qat, context: StageContext) -> dict[str, Any]:
    """Quantize, calibrate, train, check and save.

    Raises:
        StageError: the model cannot be quantized, a name in `layer_bit_widths` fits no layer, or a zero weight did not
            stay zero.
    """
    detector, settings = context.detector, stage.settings()
    float_model, build = load_model(context.source.path, detector)
    masks = masks_of(float_model, build)
    facts = model_facts(float_model, detector)
    model = quantize(float_model, settings, detector)
    check_bit_width_names(model, settings)
    with on_device(model, context.device) as device:
        calibration = post_train(model, lambda: _calibration_batches(stage, context, device), stage.chosen())
    keep = keep_zeros(model, masks)
    result = train_in_stage(model, context, stage.training, label=stage.label, distill=stage.distill, after_step=keep)
    check_zeros(model, masks, label=stage.label)
    quantization = settings.model_dump(mode="json")
    save_model(context.folder, model, build.model_copy(update={"quantization": quantization}))
    # Counted on the float model: folding changes neither MACs nor what a float deployment needs.
    own = {**calibration, **quantization_facts(model)}
    return facts | own | training_facts(result)


def _calibration_batches(stage: Qat, context: StageContext, device: Any) -> Iterator[Tensor]:
    batches = first_images(context.detector, "train", stage.calibration_images, seed=context.seed)
    for batch in track(batches, f"{stage.label}: calibrate", total=stage.calibration_images):
        yield batch.to(device)
