"""The one training loop: float training, recovery, quantization-aware training and distillation."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.dataset import METRICS, Batch, Scores, SkipsBatches
from compress.detector import Detector, DistilsOutputs
from compress.devices import device_name
from compress.errors import StageError
from compress.progress import say, warn
from compress.scoring import evaluate
from compress.seeds import epoch_seed, seed_everything
from compress.training.checkpoint import (
    CHECKPOINT,
    MovingAverage,
    Position,
    copy_of,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    tensors_of,
    using_values,
    write_into,
)
from compress.training.distillation import Distiller, as_tensors
from compress.training.lines import TrainingProgress
from compress.training.optimizer import make_optimizer
from compress.training.precision import autocast, dilated_layers_in_float32
from compress.training.settings import DistillFields, TrainingFields, learning_rate
from compress.training.sharding import join_group, shard, trains_batch_norm


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        epochs_run: epochs completed, earlier runs of the same training included.
        best_map50: of the weights that were kept; None if nothing was scored.
        best_map, best_map75: likewise.
        metric: what the weights were kept by; None if nothing was scored.
        history: one row an epoch: epoch (1-based), losses (means), lr, seconds, map, map75 and map50 (None if not
            scored), metric.
        seconds_per_image: training only, scoring left out.
    """

    epochs_run: int
    best_map50: float | None
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds_per_image: float = 0.0
    best_map: float | None = None
    best_map75: float | None = None
    metric: str | None = None


def fit(
    model: nn.Module,
    *,
    detector: Detector,
    settings: TrainingFields,
    scratch: Path,
    label: str,
    seed: int,
    teacher: nn.Module | None = None,
    distill: DistillFields | None = None,
    after_step: Callable[[int, int], None] | None = None,
    score: Callable[[nn.Module], Scores] | None = None,
    best_from_epoch: int = 0,
    device: str = "auto",
) -> FitResult:
    """Train a model in place and leave the kept weights in it, on the CPU and in evaluation mode.

    A checkpoint in `scratch` is written at the end of each epoch and every `checkpoint_minutes`. A killed
    training that is started again with the same arguments continues in the middle of an epoch and ends, on a
    CPU, with the same bits. Batches already seen are skipped by the loader's own `skip_batches(n)` if it has
    one, else they are read and dropped.

    Args:
        model: float model, traced graph or fake-quantized model; forward(images) -> raw tensors.
        detector: gives loader, loss, training mode and distillation points.
        settings: the fields of the stage.
        scratch: folder that survives a kill; one training each.
        label: name for messages.
        seed: decides order, augmentation and every random number.
        teacher: distils into the model if `distill` is given too.
        distill: weights of the distillation losses.
        after_step: called with (steps done, all steps) after each optimizer step and before the moving
            average sees it; masks are re-applied here.
        score: scores the model (the moving average if there is one) every `evaluate_every` epochs and at the
            end; the weights with the best `settings.metric` are kept. None: the last weights are kept.
        best_from_epoch: epochs before this one (0-based) are scored but never kept, e.g. while sparsity grows.
        device: 'auto', 'cpu' or 'cuda'.

    Returns:
        What happened.

    Raises:
        StageError: a loss or a gradient is not finite, or nothing can be trained.
    """
    if settings.epochs == 0:
        return FitResult(epochs_run=0, best_map50=None)
    training = _Training(model, detector, settings, Path(scratch), label, seed, device)
    training.after_step, training.best_from_epoch = after_step, best_from_epoch
    training.score = score if settings.evaluate_every else None
    with ExitStack() as stack:
        if settings.precision != "float32":
            stack.enter_context(dilated_layers_in_float32(model, training.accelerator.device))
        if teacher is not None and distill is not None:
            training.prepare_teacher(teacher)
            training.distiller = stack.enter_context(Distiller(model, teacher, detector, distill))
        training.resume()
        training.run()
    return training.finish()


def validation_score(
    detector: Detector, settings: TrainingFields, *, device: str = "auto"
) -> Callable[[nn.Module], Scores] | None:
    """Return a function for `fit(score=...)` that scores the split 'val', or None if it is never wanted."""
    if settings.evaluate_every == 0:
        return None
    from compress.runtime.forwards import torch_forward

    num_outputs = len(detector.output_names())

    def score(model: nn.Module) -> Scores:
        forward = torch_forward(model, num_outputs, device_name(device))
        return evaluate(detector, forward, "val", limit=settings.evaluate_limit)

    return score


class _Training:
    """The state of one `fit`."""

    def __init__(
        self,
        model: nn.Module,
        detector: Detector,
        settings: TrainingFields,
        scratch: Path,
        label: str,
        seed: int,
        device: str,
    ) -> None:
        from accelerate import Accelerator

        self.model, self.detector, self.settings = model, detector, settings
        self.scratch, self.label, self.seed = scratch, label, seed
        self.after_step: Callable[[int, int], None] | None = None
        self.score: Callable[[nn.Module], Scores] | None = None
        self.distiller: Distiller | None = None
        self.best_from_epoch, self.told_of_metric = 0, False
        join_group(label, device=device_name(device))
        self.accelerator = Accelerator(cpu=device_name(device) == "cpu")
        self.format = torch.channels_last if settings.channels_last else torch.contiguous_format
        model.to(device=self.accelerator.device, memory_format=self.format)  # type: ignore[call-overload]
        detector.set_train_mode(model)
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        if not self.trainable:
            raise StageError(f"stage {label}: no parameter of the model is trainable. Unfreeze some layers.")
        self.optimizer = make_optimizer(model, settings)
        self.several = self.accelerator.num_processes > 1
        if self.several and self.accelerator.is_main_process:
            say(f"{label}: {self.accelerator.num_processes} processes share every batch")
        if self.several and trains_batch_norm(model):
            warn(
                f"{label}: BatchNorm sees the images of one process only, so the result depends on the number of "
                "processes. Freeze it (norm_eval), or give each process many images."
            )
        self.forward: nn.Module = self.accelerator.prepare_model(model) if self.several else model
        self.average = MovingAverage(model, settings.ema_decay) if settings.ema_decay else None
        self.best: dict[str, Tensor] = {}
        self.position = Position(fingerprint=self._fingerprint())
        self.steps_per_epoch = len(self._loader(0))
        if self.steps_per_epoch == 0:
            raise StageError(f"stage {label}: the split 'train' gives no batch. Add images or lower batch_size.")
        self.total_steps = settings.total_steps(self.steps_per_epoch)
        self.lines = TrainingProgress(label, settings, self.total_steps, self.steps_per_epoch)
        self.last_save = self.clock = time.monotonic()

    # ---- set-up -----------------------------------------------------------------------------------

    def prepare_teacher(self, teacher: nn.Module) -> None:
        """Bring the teacher to the device and memory format of the student."""
        teacher.to(device=self.accelerator.device, memory_format=self.format)  # type: ignore[call-overload]

    def _fingerprint(self) -> str:
        shapes = {name: list(tensor.shape) for name, tensor in tensors_of(self.model).items()}
        fields = {name: getattr(self.settings, name) for name in TrainingFields.model_fields}
        del fields["checkpoint_minutes"]
        if self.settings.chosen_by() in (None, "map50"):  # as it was before there was a choice: old checkpoints fit
            del fields["metric"]
        text = json.dumps([self.seed, fields, shapes], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _loader(self, epoch: int) -> Any:
        loader: Any = self.detector.data.loader(
            "train",
            self.detector.input_format(),
            batch_size=self.settings.batch_size,
            augment=True,
            seed=epoch_seed(self.seed, epoch),
        )
        if not self.several:
            return loader
        # Each process takes its part of every batch, so `batch_size` counts the images of all processes.
        return shard(loader, rank=self.accelerator.process_index, processes=self.accelerator.num_processes)

    def resume(self) -> None:
        """Continue from the checkpoint of this training, if there is a good one."""
        try:
            found = load_checkpoint(self.scratch)
        except ValueError as error:
            warn(f"stage {self.label}: checkpoint ignored, training starts anew: {error}")
            return
        if found is None:
            return
        position, parts = found
        if position.fingerprint != self.position.fingerprint:
            warn(f"stage {self.label}: the checkpoint in {self.scratch} is of another training; starting anew.")
            return
        write_into(self.model, parts["model"])
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        if self.average is not None:
            self.average.values = {k: v.to(self.accelerator.device) for k, v in parts["ema"].items()}
        self.best, self.position = parts.get("best", {}), position
        torch.set_rng_state(parts["rng"]["torch"])
        if not position.stopped:
            say(f"{self.label}: resumed at epoch {position.epoch + 1}, step {position.step}/{self.total_steps}")

    def save(self) -> None:
        """Write the checkpoint (first process only)."""
        self.last_save = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": tensors_of(self.model),
            "optimizer": optimizer_tensors(self.optimizer),
            "best": self.best,
            "rng": {"torch": torch.get_rng_state()},
        }
        if self.average is not None:
            parts["ema"] = self.average.values
        save_checkpoint(self.scratch, self.position, parts)

    # ---- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the last epoch, the step limit or the end of patience."""
        while not self.position.stopped:
            self._run_epoch()

    def _run_epoch(self) -> None:
        position = self.position
        self.detector.set_train_mode(self.model)
        rng_state = torch.get_rng_state()
        seed_everything(epoch_seed(self.seed, position.epoch))
        batches = self._batches(position.epoch, position.batch)
        if position.batch:
            torch.set_rng_state(rng_state)  # the one of the checkpoint, not the one after skipping
        self.clock = time.monotonic()
        for batch in self.lines.watch(batches, position):
            self._train_batch(batch)
            if position.step >= self.total_steps:
                break
            if position.batch < self.steps_per_epoch and self._checkpoint_is_due():
                self.save()
                self.clock = time.monotonic()
        self._end_epoch()

    def _batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        loader = self._loader(epoch)
        can_skip = skip > 0 and isinstance(loader, SkipsBatches)
        iterator: Iterator[Batch] = iter(loader.skip_batches(skip) if can_skip else loader)
        for _ in range(0 if can_skip else skip):
            next(iterator, None)
        return iterator

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.last_save >= self.settings.checkpoint_minutes * 60

    def _train_batch(self, batch: Batch) -> None:
        position, settings = self.position, self.settings
        batch = batch.to(self.accelerator.device)
        images = batch.images.contiguous(memory_format=self.format)
        with autocast(self.accelerator.device, self.settings.precision):
            raw = tuple(as_tensors(self.forward(images)))
        raw = tuple(tensor.float() for tensor in raw)
        losses = dict(self.detector.loss(self.model, raw, batch))
        if self.distiller is not None:
            with autocast(self.accelerator.device, self.settings.precision):
                self.distiller.teach(images)
            share = self._share_of_batch(len(images))
            # A plug-in's own term is, like its loss, divided for all processes already; the others are means.
            whole = {"distill_output"} if isinstance(self.detector, DistilsOutputs) else set()
            taught = self.distiller.losses(batch, raw)
            losses |= {name: v if name in whole else share * v for name, v in taught.items()}
        stacked = torch.stack([v.detach().float() for v in losses.values()])
        if self.several:  # what is logged, and stops the training, is the loss of the whole batch
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        values = dict(zip(losses, stacked.tolist(), strict=True))
        self._refuse_non_finite(values)

        rate = learning_rate(settings, position.step, steps_per_epoch=self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(torch.stack([v.float() for v in losses.values()]).sum())
        norm = self.accelerator.clip_grad_norm_(self.trainable, settings.grad_clip or math.inf)
        self._refuse_non_finite(values, gradient=float(norm))
        self.optimizer.step()
        position.step += 1
        if self.after_step is not None:
            self.after_step(position.step, self.total_steps)
        if self.average is not None:
            self.average.update(self.model, position.step - 1)

        position.batch += 1
        position.images += len(images) * self.accelerator.num_processes
        for name, value in values.items():
            position.loss_sums[name] = position.loss_sums.get(name, 0.0) + value
        seconds = time.monotonic() - self.clock  # since the previous step: reading the batch counts too
        self.clock += seconds
        position.epoch_seconds += seconds
        position.train_seconds += seconds
        self.lines.step(position, values, rate, seconds / (len(images) * self.accelerator.num_processes))

    def _share_of_batch(self, num_images: int) -> float:
        """Return the weight with which means over this process's images average to the mean of the whole batch."""
        if not self.several:
            return 1.0
        count = torch.tensor(float(num_images), device=self.accelerator.device)
        return num_images / float(self.accelerator.reduce(count, reduction="mean"))

    def _refuse_non_finite(self, values: Mapping[str, float], gradient: float = 0.0) -> None:
        if math.isfinite(gradient) and all(math.isfinite(v) for v in values.values()):
            return
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        kept, done = self.scratch / CHECKPOINT, self.position.step
        where = f"the last good state is in {kept}" if kept.exists() else "no checkpoint had been written yet"
        raise StageError(
            f"stage {self.label}: step {done + 1} of {self.total_steps}, epoch {self.position.epoch + 1}: "
            f"loss or gradient is not finite ({parts}; gradient norm {gradient:.4g}); {where}. "
            f"Lower lr (now {self.settings.lr:g}) or grad_clip, lengthen warmup_steps, or look for broken labels."
        )

    def _end_epoch(self) -> None:
        position, settings = self.position, self.settings
        row: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "losses": {name: total / max(position.batch, 1) for name, total in position.loss_sums.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(position.epoch_seconds, 3),
            **dict.fromkeys([*METRICS, "metric"]),
        }
        last = position.epoch + 1 >= settings.epochs or position.step >= self.total_steps
        if self.score is not None and (last or (position.epoch + 1) % settings.evaluate_every == 0):
            row |= self._score_and_keep_best()
        position.history.append(row)
        self.lines.epoch(row)
        waited = position.epoch - max(position.best_epoch or 0, self.best_from_epoch)
        tired = settings.patience is not None and waited >= settings.patience and position.best_epoch is not None
        if tired and not last:
            stopped = f"stopped early after epoch {position.epoch + 1}"
            say(f"{self.label}: no better {row['metric'] or settings.metric} for {waited} epochs; {stopped}")
        position.stopped = last or tired
        position.epoch += 1
        position.batch, position.loss_sums, position.epoch_seconds = 0, {}, 0.0
        self.save()

    def _score_and_keep_best(self) -> dict[str, Any]:
        """Return what the row of the epoch says of its scores."""
        assert self.score is not None
        position = self.position
        self.model.eval()
        with using_values(self.model, self.average.values if self.average else None), torch.no_grad():
            scores = self.score(self.model)
            found = {name: None if (one := getattr(scores, name)) is None else float(one) for name in METRICS}
            metric = self._metric_of(scores)
            value, best = float(getattr(scores, metric)), getattr(position, f"best_{metric}")
            if position.epoch >= self.best_from_epoch and (best is None or value > best) and not math.isnan(value):
                position.best_map, position.best_map75, position.best_map50 = (found[name] for name in METRICS)
                position.best_epoch = position.epoch
                self.best = copy_of(tensors_of(self.model))
        return {**found, "metric": metric}

    def _metric_of(self, scores: Scores) -> str:
        """Return what the weights are kept by: the wanted metric, map50 where the data set does not measure it."""
        wanted = self.settings.metric
        if getattr(scores, wanted) is not None:
            return wanted
        if not self.told_of_metric:
            warn(f"{self.label}: the data set's scores have no {wanted}; weights are kept by map50 instead.")
        self.told_of_metric = True
        return "map50"

    def finish(self) -> FitResult:
        """Load the weights that are kept and bring the model back to the CPU."""
        kept = self.best or (self.average.values if self.average else None)
        if kept:
            write_into(self.model, kept)
        self.model.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        position = self.position
        return FitResult(
            epochs_run=position.epoch,
            best_map50=position.best_map50,
            history=position.history,
            seconds_per_image=position.train_seconds / max(position.images, 1),
            best_map=position.best_map,
            best_map75=position.best_map75,
            metric=next((row["metric"] for row in reversed(position.history) if row.get("metric")), None),
        )
