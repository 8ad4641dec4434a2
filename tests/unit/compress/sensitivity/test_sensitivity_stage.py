"""The stage from model to facts, on a network small enough to know its answers."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lookalike import LookalikeDetector
from pydantic import ValidationError

from compress import progress
from compress.actions import sensitivity as action
from compress.artifact import Artifact
from compress.dataset import Picture, Scores
from compress.kind import Kind
from compress.model_folder import Build, save_model
from compress.recipe.plan import make_plan
from compress.report.sensitivity import Sensitivity as Found
from compress.report.sensitivity_table import sensitivity_note, sensitivity_tables
from compress.sensitivity import ledger, measuring
from compress.stage import StageContext
from compress.stages import STAGES
from compress.stages.sensitivity import Sensitivity

torch.set_num_threads(1)
PICTURES = [np.full((64, 64, 3), value, np.uint8) for value in range(0, 250, 25)]
QUICK = {"importance": "magnitude", "images": 2, "score_images": 3}


class Detector(LookalikeDetector):
    """Finds one number in a picture, the mean of its scores; as good as it is near the one of the unchanged network."""

    def __init__(self, *, objects=5):
        self.objects = objects
        self.splits = []
        self.model = self.build().eval()

    def images(self, split):
        self.splits.append(split)
        with torch.no_grad():
            truths = [float(self.model(torch.from_numpy(self._input(image)))[0].mean()) for image in PICTURES]
        return [Picture(str(i), image, truth) for i, (image, truth) in enumerate(zip(PICTURES, truths, strict=True))]

    def loader(self, split, input_format, **options):
        self.splits.append(split)
        return super().loader(split, input_format, **options)

    @staticmethod
    def _input(image):
        noise = np.random.default_rng(int(image[0, 0, 0])).normal(size=(1, 3, 64, 64))
        return noise.astype(np.float32)

    def torch_deploy(self):
        return SimpleNamespace(
            image_size=(64, 64),
            preprocess=lambda image, *, minimum_size: self._input(image),
            postprocess=lambda raw, *, image_size, score_threshold: [float(raw[0].mean())],
            tile_windows=lambda size, **_: [(0, 0, size[1], size[0])],
            merge=lambda parts, windows, *, image_size: parts[0],
        )

    def score(self, detections, truths):
        off = np.abs(np.array(detections) - np.array(truths))
        drawn = 1 - off[np.random.default_rng(0).integers(0, len(off), (200, len(off)))].mean(axis=1)
        value = float(1 - off.mean()) if self.objects else math.nan
        return Scores(value, "area", 0.5, {}, 0.0, 0.0, 0.3, 1, len(off), map=value, map_resampled=drawn,
                      num_objects=self.objects)  # fmt: skip


def context(folder, detector, model=None):
    for name in ("source", "made", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    save_model(folder / "source", model or detector.build(), Build())
    source = Artifact(folder / "source", "train", "float", Kind.MODEL, "", "", {}, 0.0, 0, ("float",))
    made = folder / "made"
    return StageContext("sensitivity", made, folder / "scratch", {"source": source}, detector, 0, "cpu", {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, detector = tmp_path_factory.mktemp("sensitivity"), Detector()
    facts = Sensitivity(**QUICK).run(context(folder, detector))
    found = Found.model_validate({name: value for name, value in facts.items() if name != "charts"})
    return SimpleNamespace(folder=folder, detector=detector, facts=facts, found=found)


def by_part(run, what):
    parts = {}
    for row in run.found.of_kind(what):
        parts.setdefault(row.part, {})[row.amount] = row
    return parts


def test_every_group_and_layer_has_a_row_for_each_amount(run):
    assert all(set(rows) == {0.25, 0.5} for rows in by_part(run, "channels").values())
    assert all(set(rows) == {3, 4, 5, 6} for rows in by_part(run, "weights").values())
    assert all(set(rows) == {4, 8} for rows in by_part(run, "activations").values())
    assert {"stem", "head.cls", "head.field"} <= set(by_part(run, "weights")) == set(by_part(run, "activations"))
    assert "head.cls" not in by_part(run, "channels")
    assert run.found.not_measured == []


@pytest.mark.parametrize(
    ("what", "little", "much"), [("channels", 0.25, 0.5), ("weights", 6, 3), ("activations", 8, 4)]
)
def test_the_error_grows_as_more_is_taken_away(run, what, little, much):
    parts = by_part(run, what)
    grows = [rows[much].error > rows[little].error > 0 for rows in parts.values()]
    assert sum(grows) >= 0.85 * len(grows)  # two removals may make up for each other
    assert sum(rows[much].error for rows in parts.values()) > 1.5 * sum(rows[little].error for rows in parts.values())


def test_what_a_row_says_is_what_the_outputs_do(run):
    row = by_part(run, "weights")["stem"][3]
    from compress.sensitivity.rounding import rounded_weight

    model, changed = run.detector.build(), run.detector.build()
    changed.stem.weight.data = rounded_weight(changed.stem, 3)
    batches = [batch.images for batch in list(run.detector.loader("train", None, batch_size=1, augment=False, seed=0))][
        :2
    ]
    with torch.no_grad():
        pairs = [(changed(images), model(images)) for images in batches]
    for place, name in enumerate(run.detector.output_names()):
        difference = sum(float((a[place] - b[place]).double().square().sum()) for a, b in pairs)
        scale = sum(float(b[place].double().square().sum()) for _, b in pairs)
        assert row.errors[name] == pytest.approx(math.sqrt(difference / scale), rel=1e-4)


def test_the_strongest_step_of_each_part_is_scored_on_val_and_nothing_reads_test(run):
    for what, amount in (("channels", 0.5), ("weights", 3), ("activations", 4)):
        for rows in by_part(run, what).values():
            assert all((row.loss is not None) == (row.amount == amount) for row in rows.values())
            low, high = rows[amount].loss_interval
            assert low - 1e-9 <= rows[amount].loss <= high + 1e-9
            assert rows[amount].loss >= 0
        assert by_part(run, what)["stem"][amount].loss > 0
    assert (run.found.split, run.found.score_images, run.found.metric) == ("val", 3, "map")
    assert run.found.reference == pytest.approx(1.0, abs=1e-6)
    assert set(run.detector.splits) == {"train", "val"}
    assert Sensitivity(**QUICK).splits() == ("train", "val")
    assert Sensitivity(score=False).splits() == ("train",)


def test_removals_free_parameters_and_macs_and_bits_free_bytes_alone(run):
    assert all(row.macs_freed > 0 < row.params_freed for row in run.found.of_kind("channels"))
    assert all(row.macs_freed == row.params_freed == 0 < row.bytes_freed for row in run.found.of_kind("weights"))
    assert all(row.bytes_freed == 0 for row in run.found.of_kind("activations"))


def test_the_artifact_holds_rows_and_charts(run):
    made = run.folder / "made"
    assert json.loads((made / "sensitivity.json").read_text()) == json.loads(json.dumps(run.facts))
    assert run.facts["charts"] == ["sensitivity_channels.png", "sensitivity_layers.png"]
    assert all((made / name).read_bytes().startswith(b"\x89PNG") for name in run.facts["charts"])


def test_the_summary_sorts_parts_by_their_error(run):
    text = str(run.found)
    channels = text.partition("removed, most sensitive first:\n")[2].partition("\n\n")[0].splitlines()
    errors = {row.part: row.error for row in run.found.of_kind("channels") if row.amount == 0.5}
    named = [line.split()[0] for line in channels if "..." not in line]
    assert named == sorted(named, key=lambda part: -errors[part])
    assert "frees" in channels[0]
    assert "points of map" in channels[0]


def test_tables_have_a_line_a_part(run):
    tables = {title: (head, lines) for title, head, lines in sensitivity_tables(run.found)}
    head, lines = tables["Channels of a pruning group removed"]
    assert head[:5] == ["part", "channels", "error, 25 %", "error, 50 %", "loss of the strongest"]
    assert len(lines) == len(by_part(run, "channels"))
    assert tables["Weights of a layer rounded"][0][1:5] == [f"error, {bits} bits" for bits in (6, 5, 4, 3)]
    assert all(len(line) == len(head) for head, lines in tables.values() for line in lines)
    assert "3 images of `val`" in sensitivity_note(run.found)


def test_channels_that_are_dead_cost_nothing(tmp_path):
    detector = Detector()
    model = detector.model
    with torch.no_grad():
        block = model.block1
        for layer in (block.expand, block.expand_bn, block.depth, block.depth_bn):
            layer.weight[:24] = 0
        block.expand_bn.bias[:24] = block.depth_bn.bias[:24] = 0
        block.project.weight[:, :24] = 0
    facts = Sensitivity(**QUICK, weight_bits=[], activation_bits=[]).run(context(tmp_path, detector, model))
    rows = {row["amount"]: row for row in facts["rows"] if row["part"] == "block1.expand"}
    assert rows[0.5]["channels"] == 24
    assert (rows[0.25]["error"], rows[0.5]["error"], rows[0.5]["loss"]) == (0.0, 0.0, 0.0)
    assert rows[0.5]["macs_freed"] > 0


def test_a_killed_stage_goes_on_where_it_was(tmp_path, monkeypatch, run):
    measured, killed = [], {"errors": 2, "scores": 1}

    def counted(function, what):
        def wrapper(self_or_replay, changes, *rest, **named):
            if sum(kind == what for kind, _ in measured) == killed.get(what):
                killed.pop(what)
                raise KeyboardInterrupt
            measured.append((what, len([change for change in changes if change is not None])))
            return function(self_or_replay, changes, *rest, **named)

        return wrapper

    monkeypatch.setattr(action, "errors_of", counted(action.errors_of, "errors"))
    monkeypatch.setattr(measuring.Scorer, "detections", counted(measuring.Scorer.detections, "scores"))
    planned = []
    monkeypatch.setattr(action, "weight_steps", lambda *a, inner=action.weight_steps: planned.append(1) or inner(*a))
    detector, stage = Detector(), Sensitivity(**QUICK)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stage.run(context(tmp_path, detector))
    facts = stage.run(context(tmp_path, detector))
    assert facts == run.facts
    assert planned == [1]
    counts = {what: sum(count for kind, count in measured if kind == what) for what in ("errors", "scores")}
    scored = [row for row in facts["rows"] if row["loss"] is not None]
    assert counts == {"errors": len(facts["rows"]), "scores": len(scored)}
    assert len(facts["rows"]) > 2 * ledger.BLOCK


def test_nothing_is_scored_where_nobody_asks(tmp_path):
    detector = Detector()
    facts = Sensitivity(**QUICK, shares=[], weight_bits=[4], activation_bits=[], score=False).run(
        context(tmp_path, detector)
    )
    assert {row["loss"] for row in facts["rows"]} == {None}
    assert facts["split"] is None
    assert set(detector.splits) == {"train"}
    assert facts["charts"] == ["sensitivity_layers.png"]


def test_without_objects_no_loss_is_known_and_that_is_told(tmp_path):
    progress.clear_warnings()
    facts = Sensitivity(**QUICK, shares=[0.5], weight_bits=[], activation_bits=[]).run(
        context(tmp_path, Detector(objects=0))
    )
    assert {row["loss"] for row in facts["rows"]} == {None}
    assert (facts["metric"], facts["reference"], facts["split"]) == (None, None, "val")
    assert any("no object in the images of 'val'" in text for text in progress.collected_warnings())
    assert all(row["error"] > 0 for row in facts["rows"])
    found = Found.model_validate({name: value for name, value in facts.items() if name != "charts"})
    assert "No object" in sensitivity_note(found)
    assert "points" not in str(found)


def test_groups_without_a_score_are_named(tmp_path):
    facts = Sensitivity(**{**QUICK, "importance": "bn_scale"}, weight_bits=[], activation_bits=[], score=False).run(
        context(tmp_path, Detector())
    )
    left = {one["part"]: one["reason"] for one in facts["not_measured"]}
    assert "bn_scale" in left["out1"]
    assert "out1" not in {row["part"] for row in facts["rows"]}


def test_outputs_that_are_no_numbers_have_no_error(tmp_path):
    detector = Detector()
    model = detector.model
    with torch.no_grad():
        model.head.cls.bias.fill_(math.nan)
    facts = Sensitivity(**QUICK, shares=[], weight_bits=[4], activation_bits=[], score=False).run(
        context(tmp_path, detector, model)
    )
    assert {row["error"] for row in facts["rows"]} == {None}
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"shares": [0]},
        {"shares": [1]},
        {"shares": [0.5, 0.5]},
        {"shares": ["half"]},
        {"weight_bits": [1]},
        {"weight_bits": [17]},
        {"weight_bits": [4, 4]},
        {"weight_bits": [3.5]},
        {"activation_bits": [0]},
        {"images": 0},
        {"score_images": 0},
        {"taylor_batches": 0},
        {"importance": "guess"},
        {"split": "test"},
        {"shares": [], "weight_bits": [], "activation_bits": []},
    ],
)
def test_wrong_fields_are_refused(fields):
    with pytest.raises(ValidationError):
        Sensitivity(**fields)


def test_the_order_of_amounts_is_not_part_of_the_fields():
    assert Sensitivity(weight_bits=[6, 3]) == Sensitivity(weight_bits=[3, 6])


def test_later_stages_take_the_model_before_it():
    stages = [Sensitivity(), STAGES["prune_structured"](target={"macs": 0.5}), Sensitivity(name="again")]
    stages += [STAGES["export_onnx"](), STAGES["report"](split="val")]
    plan, problems = make_plan(stages)
    assert problems == []
    sources = {one.label: one.inputs.get("source") for one in plan}
    assert (sources["sensitivity"], sources["prune_structured"]) == ("float", "float")
    assert (sources["again"], sources["export_onnx"]) == ("prune_structured", "prune_structured")
    assert not [label for label in sources if label.startswith("sensitivity_")]  # nothing of it is scored


def test_a_quantized_model_is_not_taken():
    _, problems = make_plan([STAGES["qat"](training={"epochs": 0}), Sensitivity()])
    assert "sensitivity needs model" in problems[0].text
