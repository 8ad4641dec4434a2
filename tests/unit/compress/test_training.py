"""The training loop: exact resume, schedules, masks, best weights, NaN guard."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fake_plugin import FakePlugin
from pydantic import ValidationError
from torch import nn

from compress import progress
from compress.dataset import Scores
from compress.errors import StageError
from compress.seeds import epoch_seed
from compress.training.checkpoint import CHECKPOINT, load_checkpoint, tensors_of
from compress.training.loop import _Training, fit
from compress.training.optimizer import parameter_groups
from compress.training.settings import DistillFields, TrainingFields, learning_rate

torch.set_num_threads(1)

NUM_IMAGES = 12


@dataclass
class TinyBatch:
    images: torch.Tensor
    targets: torch.Tensor

    def to(self, device):
        return TinyBatch(self.images.to(device), self.targets.to(device))


class TinyLoader:
    """Order and noise come from one generator, as they do in a careless data set."""

    def __init__(self, batch_size, seed):
        self.batch_size, self.seed, self.read = batch_size, seed, 0

    def __len__(self):
        return NUM_IMAGES // self.batch_size

    def __iter__(self):
        rng = np.random.default_rng(self.seed)
        for _ in range(len(self)):
            self.read += 1
            images = torch.from_numpy(rng.normal(size=(self.batch_size, 3, 8, 8)).astype("float32"))
            yield TinyBatch(images, images.mean((1, 2, 3)))


class TinyNet(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, images):
        feature = self.drop(torch.relu(self.norm(self.stem(images))))
        return (self.head(feature),)


class TinyDetector(FakePlugin):
    poison_at = None

    def __init__(self):
        self.calls = 0

    def output_names(self):
        return ("heat",)

    def distill_points(self, model):
        return ("norm",)

    def loader(self, split, input_format, *, batch_size, augment, seed):
        assert split == "train"
        assert augment
        return TinyLoader(batch_size, seed)

    def loss(self, model, raw, batch):
        self.calls += 1
        loss = (raw[0].mean((1, 2, 3)) - batch.targets).square().mean()
        if self.calls == self.poison_at:
            loss = loss * float("nan")
        return {"loss_heat": loss, "loss_size": raw[0].square().mean() * 0.1}


def tiny_net(seed=0):
    torch.manual_seed(seed)
    return TinyNet()


def settings(**changes):
    fields = {"epochs": 3, "batch_size": 2, "lr": 0.05, "warmup_steps": 3, "checkpoint_minutes": 0.0}
    return TrainingFields(**(fields | changes))


def scores(map50):
    return Scores(map50, "area", 0.5, {}, 0.0, 0.0, 0.3, 0, 1)


def run(scratch, model=None, detector=None, **arguments):
    model = model if model is not None else tiny_net()
    arguments.setdefault("settings", settings())
    result = fit(model, detector=detector or TinyDetector(), scratch=scratch, label="finetune", seed=5, **arguments)
    return model, result


def assert_same_weights(left, right):
    for (name, a), (_, b) in zip(left.state_dict().items(), right.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def _train_until_killed(scratch, fields, kill_at):
    def kill(step, total):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run(scratch, settings=settings(**fields), after_step=kill)


@pytest.mark.parametrize("kill_at", [4, 6, 9])  # in an epoch, at the end of one, after two checkpoints
@pytest.mark.parametrize(
    "fields", [{}, {"optimizer": "adamw", "lr": 0.01, "ema_decay": 0.9, "schedule": "cosine"}], ids=["sgd", "adamw-ema"]
)
def test_a_killed_training_ends_with_the_same_bits_as_an_uninterrupted_one(tmp_path, kill_at, fields):
    expected, _ = run(tmp_path / "whole", settings=settings(**fields))
    child = multiprocessing.get_context("fork").Process(
        target=_train_until_killed, args=(tmp_path / "killed", fields, kill_at)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    position, _ = load_checkpoint(tmp_path / "killed")
    assert position.step == kill_at - 1

    resumed, result = run(tmp_path / "killed", settings=settings(**fields))

    assert_same_weights(expected, resumed)
    assert result.epochs_run == 3
    assert [row["epoch"] for row in result.history] == [1, 2, 3]


def test_losses_of_a_resumed_epoch_are_those_of_the_whole_epoch(tmp_path):
    _, whole = run(tmp_path / "whole")

    def stop(step, total):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", after_step=stop)
    _, resumed = run(tmp_path / "cut")
    assert [row["losses"] for row in whole.history] == [row["losses"] for row in resumed.history]


def test_a_finished_training_is_not_trained_again(tmp_path):
    first, _ = run(tmp_path)
    detector = TinyDetector()
    second, result = run(tmp_path, detector=detector)
    assert detector.calls == 0
    assert_same_weights(first, second)
    assert len(result.history) == 3


def test_a_damaged_checkpoint_is_ignored(tmp_path):
    expected, _ = run(tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    again, _ = run(tmp_path)
    assert_same_weights(expected, again)


def test_a_checkpoint_of_other_settings_is_ignored(tmp_path):
    run(tmp_path)
    expected, _ = run(tmp_path / "other", settings=settings(lr=0.01))
    again, _ = run(tmp_path, settings=settings(lr=0.01))
    assert_same_weights(expected, again)


def test_training_lowers_the_loss(tmp_path):
    _, result = run(tmp_path, settings=settings(epochs=8))
    assert result.history[-1]["losses"]["loss_heat"] < 0.5 * result.history[0]["losses"]["loss_heat"]
    assert result.best_map50 is None
    assert result.seconds_per_image > 0


def test_bfloat16_computes_layers_in_bfloat16_and_losses_and_weights_in_float32(tmp_path):
    seen = {}

    class Watching(TinyDetector):
        def loss(self, model, raw, batch):
            seen["raw"] = raw[0].dtype
            return super().loss(model, raw, batch)

    model = tiny_net()
    handle = model.stem.register_forward_hook(lambda module, inputs, output: seen.update(stem=output.dtype))
    _, result = run(
        tmp_path, model, Watching(), teacher=tiny_net(2), distill=DistillFields(),
        settings=settings(epochs=8, precision="bfloat16"),
    )  # fmt: skip
    handle.remove()
    assert seen == {"stem": torch.bfloat16, "raw": torch.float32}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    _, exact = run(tmp_path / "f", teacher=tiny_net(2), distill=DistillFields(), settings=settings(epochs=8))
    for mine, theirs in zip(result.history, exact.history, strict=True):
        assert mine["losses"] != theirs["losses"]
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=0.1)


def test_features_are_distilled_after_the_model_was_scored_on_images_of_another_size(tmp_path):
    def score(model):
        with torch.inference_mode():
            model(torch.zeros(1, 3, 12, 16))
        return scores(0.5)

    _, result = run(
        tmp_path, teacher=tiny_net(2), distill=DistillFields(), score=score, settings=settings(evaluate_every=1)
    )
    assert [row["map50"] for row in result.history] == [0.5] * 3
    assert all(row["losses"]["distill_feature"] > 0 for row in result.history)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    detector = TinyDetector()
    detector.poison_at = 5
    with pytest.raises(StageError, match=r"stage finetune: step 5 of 18, epoch 1: .*heat nan.*Lower lr"):
        run(tmp_path, detector=detector)
    position, parts = load_checkpoint(tmp_path)
    assert position.step == 4
    assert all(torch.isfinite(t).all() for t in parts["model"].values())


def test_the_best_scored_weights_are_kept(tmp_path):
    seen = []

    def score(model):
        assert not model.training
        seen.append({k: v.clone() for k, v in tensors_of(model).items()})
        return scores([0.2, 0.6, 0.4][len(seen) - 1])

    model, result = run(tmp_path, settings=settings(evaluate_every=1), score=score)
    assert result.best_map50 == 0.6
    assert [row["map50"] for row in result.history] == [0.2, 0.6, 0.4]
    assert all(torch.equal(seen[1][k], v) for k, v in tensors_of(model).items())


@pytest.mark.parametrize(("metric", "best"), [(None, 0), ("map", 0), ("map75", 2), ("map50", 1)])
def test_weights_are_kept_by_the_metric_that_is_chosen(tmp_path, metric, best):
    seen, rows = [], [(0.2, 0.9, 0.4), (0.6, 0.4, 0.5), (0.4, 0.8, 0.6)]  # map50, map, map75

    def score(model):
        seen.append({k: v.clone() for k, v in tensors_of(model).items()})
        map50, coco, map75 = rows[len(seen) - 1]
        return replace(scores(map50), map=coco, map75=map75)

    chosen = settings(evaluate_every=1, **({} if metric is None else {"metric": metric}))
    model, result = run(tmp_path, settings=chosen, score=score)
    assert all(torch.equal(seen[best][k], v) for k, v in tensors_of(model).items())
    assert (result.best_map50, result.best_map, result.best_map75) == rows[best]
    assert result.metric == (metric or "map")
    assert [(row["map50"], row["map"], row["map75"]) for row in result.history] == rows
    _, again = run(tmp_path, settings=chosen, score=lambda m: pytest.fail("trained again"))
    assert (again.best_map50, again.best_map, again.best_map75, again.metric) == (*rows[best], metric or "map")


def test_a_data_set_without_map_keeps_weights_by_map50_and_it_is_said(tmp_path):
    progress.clear_warnings()
    values = iter([0.2, 0.6, 0.4])
    _, result = run(tmp_path, settings=settings(evaluate_every=1), score=lambda m: scores(next(values)))
    assert (result.best_map50, result.best_map, result.metric) == (0.6, None, "map50")
    assert progress.collected_warnings() == [
        "finetune: the data set's scores have no map; weights are kept by map50 instead."
    ]


@pytest.mark.parametrize("fields", [{}, {"evaluate_every": 1, "metric": "map50"}])
def test_a_checkpoint_from_before_the_metric_could_be_chosen_goes_on(tmp_path, fields):
    """Its fingerprint knew no metric; nothing is chosen by one, or what always was."""
    training = _Training(tiny_net(), TinyDetector(), settings(**fields), tmp_path, "finetune", 5, "cpu")
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(training.model).items()}
    before = {name: getattr(training.settings, name) for name in TrainingFields.model_fields}
    for name in ("checkpoint_minutes", "metric"):
        del before[name]
    text = json.dumps([5, before, shapes], sort_keys=True, default=str)
    assert training.position.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    other = settings(evaluate_every=1)
    assert _Training(tiny_net(), TinyDetector(), other, tmp_path, "finetune", 5, "cpu").position.fingerprint != (
        training.position.fingerprint
    )


def test_epochs_before_best_from_epoch_are_scored_but_not_kept(tmp_path):
    values = iter([0.9, 0.3, 0.4])
    _, result = run(
        tmp_path, settings=settings(evaluate_every=1), score=lambda m: scores(next(values)), best_from_epoch=1
    )
    assert result.best_map50 == 0.4


def test_patience_stops_early_and_stays_stopped(tmp_path):
    values = iter([0.5, 0.4, 0.3, 0.9, 0.9])
    chosen = settings(epochs=5, evaluate_every=1, patience=2)
    _, result = run(tmp_path, settings=chosen, score=lambda m: scores(next(values)))
    assert result.epochs_run == 3
    _, again = run(tmp_path, settings=chosen, score=lambda m: pytest.fail("trained again"))
    assert again.best_map50 == 0.5


def test_the_moving_average_is_scored_and_returned(tmp_path):
    scored = []

    def score(model):
        scored.append({k: v.clone() for k, v in tensors_of(model).items()})
        return scores(0.1)

    plain, _ = run(tmp_path / "plain", settings=settings(epochs=1))
    averaged, _ = run(tmp_path / "ema", settings=settings(epochs=1, ema_decay=0.99, evaluate_every=1), score=score)
    assert not torch.equal(plain.stem.weight, averaged.stem.weight)
    assert torch.equal(scored[0]["stem.weight"], averaged.stem.weight)


def test_masks_of_after_step_hold_in_the_result_and_in_the_average(tmp_path):
    model = tiny_net()
    mask = torch.rand_like(model.stem.weight) > 0.5
    with torch.no_grad():
        model.stem.weight.mul_(mask)
    steps = []

    def keep_zeros(step, total):
        steps.append((step, total))
        with torch.no_grad():
            model.stem.weight.mul_(mask)

    run(tmp_path, model, settings=settings(epochs=1, ema_decay=0.9), after_step=keep_zeros)
    assert (model.stem.weight[~mask] == 0).all()
    assert steps == [(i, 6) for i in range(1, 7)]


def test_frozen_parameters_do_not_move(tmp_path):
    model = tiny_net()
    model.stem.requires_grad_(False)
    before = model.stem.weight.clone()
    run(tmp_path, model)
    assert torch.equal(before, model.stem.weight)


def test_a_model_without_trainable_parameters_is_refused(tmp_path):
    with pytest.raises(StageError, match="no parameter of the model is trainable"):
        run(tmp_path, tiny_net().requires_grad_(False))


def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path):
    detector = TinyDetector()
    _, result = run(tmp_path, detector=detector, settings=settings(max_steps=8))
    assert detector.calls == 8
    assert result.epochs_run == 2


def test_no_epochs_change_nothing(tmp_path):
    model, result = run(tmp_path, settings=settings(epochs=0))
    assert_same_weights(model, tiny_net())
    assert result.epochs_run == 0


def test_distillation_reaches_the_history_and_works_on_a_traced_student(tmp_path):
    student = torch.fx.symbolic_trace(tiny_net(1))
    _, result = run(tmp_path, student, teacher=tiny_net(2), distill=DistillFields(), settings=settings(epochs=1))
    assert set(result.history[0]["losses"]) == {"loss_heat", "loss_size", "distill_feature", "distill_output"}


def test_biases_and_norm_parameters_do_not_decay():
    decayed, free = parameter_groups(tiny_net(), 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 4]
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in free["params"])


def test_seeds_of_neighbouring_epochs_are_unrelated():
    assert len({epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


def test_the_step_schedule_warms_up_from_a_third_and_drops_at_the_milestones():
    chosen = TrainingFields(epochs=12, lr=0.3, warmup_steps=10)
    rates = [learning_rate(chosen, step, steps_per_epoch=10) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.2)
    assert rates[10] == rates[79] == pytest.approx(0.3)
    assert rates[80] == rates[109] == pytest.approx(0.03)
    assert rates[110] == pytest.approx(0.003)


def test_the_cosine_schedule_falls_to_a_hundredth():
    chosen = TrainingFields(epochs=10, lr=1.0, warmup_steps=0, schedule="cosine")
    rates = [learning_rate(chosen, step, steps_per_epoch=100) for step in range(1000)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"patience": 2}, "evaluate_every is 0"),
        ({"milestones": (8, 4)}, "ascending"),
        ({"schedule": "cosine", "milestones": (4,)}, "'step' only"),
        ({"lr": 0}, "greater than 0"),
        ({"learning_rate": 1}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        TrainingFields(**fields)
