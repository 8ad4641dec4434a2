"""Action of stage qat: quantize, calibrate on real images, then train with the rounding, at a size if one is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from compress.actions.model_facts import model_facts, training_facts
from compress.actions.size_rounding import SizeRounding, packed_bytes, target_bytes, weigh_errors
from compress.devices import on_device
from compress.model_copy import copy_of
from compress.model_folder import keep_zeros, load_model, masks_of, save_model
from compress.number_text import size_text
from compress.progress import say, track
from compress.quantization import quantize
from compress.quantization.calibration import first_images
from compress.quantization.checks import check_bit_width_names, check_zeros, quantization_facts
from compress.quantization.graph import check_followed
from compress.quantization.post_training import post_train
from compress.quantization.priced_rounding import SizeHolder, round_by_price, settle
from compress.quantization.size_target import RateFields
from compress.rate_rounding.search import Priced, price_for_size
from compress.stage import StageContext
from compress.stages.qat import Qat
from compress.training.in_stage import train_in_stage
from compress.training.loop import FitResult

AfterStep = Callable[[int, int], None]


def run(stage: Qat, context: StageContext) -> dict[str, Any]:
    """Quantize, calibrate, train, check and save.

    Raises:
        StageError: the model cannot be quantized, a name in `layer_bit_widths` fits no layer, a size cannot be reached,
            or a zero weight did not stay zero.
    """
    detector, settings = context.detector, stage.settings()
    float_model, build = load_model(context.source.path, detector)
    masks = masks_of(float_model, build)
    facts = model_facts(float_model, detector)
    check_followed(float_model, detector.example_input(1))
    model = quantize(float_model, settings, detector)
    check_bit_width_names(model, settings)
    with on_device(model, context.device) as device:
        calibration = post_train(model, lambda: _calibration_batches(stage, context, device), stage.chosen())

    def train(*after_step: AfterStep) -> FitResult:
        everything = (keep_zeros(model, masks), *after_step)

        def after(step: int, total_steps: int) -> None:
            for each in everything:
                each(step, total_steps)

        return train_in_stage(
            model, context, stage.training, label=stage.label, distill=stage.distill, after_step=after
        )

    sized: dict[str, Any] = {}
    if stage.rate is None:
        result = train()
    else:
        result, sized = _train_at_size(model, stage, stage.rate, context, train)
    check_zeros(model, masks, label=stage.label)
    quantization = settings.model_dump(mode="json")
    save_model(context.folder, model, build.model_copy(update={"quantization": quantization}))
    # Counted on the float model: folding changes neither MACs nor what a float deployment needs.
    own = {**calibration, **quantization_facts(model), **sized}
    return facts | own | training_facts(result)


def _train_at_size(
    model: nn.Module, stage: Qat, rate: RateFields, context: StageContext, train: Callable[..., FitResult]
) -> tuple[FitResult, dict[str, Any]]:
    """Round to the size, train at the bits that this takes, and round off what training put on top.

    Returns:
        What the training did, and the facts of the size.
    """
    statistics = weigh_errors(model, context, images=rate.images, label=stage.label)
    sizing = SizeRounding(model, statistics, context, label=stage.label)
    found = sizing.to(rate, baseline=rate.baseline)
    sizing.settle(found)
    if not stage.training.epochs:
        return train(), _size_facts(found)
    round_by_price(model, found.layers, statistics, found.price)
    holder = SizeHolder(model)
    result = train(holder)

    def size_at(price: float) -> int:
        return packed_bytes(settle(copy_of(model), price), context)

    price = holder.price
    size = size_at(price)
    say(f"{stage.label}: {size_text(size)} after training, at {price:.3g} a bit instead of {found.price:.3g}")
    if rate.price is None:
        wanted = target_bytes(rate, context, baseline=rate.baseline, label=stage.label)
        if size > wanted:
            price, size = price_for_size(size_at, price, size, wanted)
            say(f"{stage.label}: {size_text(size)} at {price:.3g} a bit")
    settle(model, price)
    return result, _size_facts(replace(found, num_bytes=size, price=price))


def _size_facts(found: Priced) -> dict[str, Any]:
    return {"price": found.price, "expected_packed_bytes": found.num_bytes, "expected_loss": found.loss}


def _calibration_batches(stage: Qat, context: StageContext, device: Any) -> Iterator[Tensor]:
    batches = first_images(context.detector, "train", stage.calibration_images, seed=context.seed)
    for batch in track(batches, f"{stage.label}: calibrate", total=stage.calibration_images):
        yield batch.to(device)
