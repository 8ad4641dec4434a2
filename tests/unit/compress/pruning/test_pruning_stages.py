import pytest
import torch
from lookalike import FakeArtifact, FakeContext, LookalikeDetector
from pydantic import ValidationError
from torch import nn

from compress.errors import StageError
from compress.metrics.complexity import sparsity_of
from compress.model_folder import Build, load_model, save_model
from compress.stages.prune_structured import PruneStructured
from compress.stages.prune_unstructured import PruneUnstructured

torch.set_num_threads(1)
QUICK = {"batch_size": 2, "warmup_steps": 0, "channels_last": False}
FAST = {"bn_batches": 2, "taylor_batches": 2}


def _context(tmp_path, model=None, build=None):
    detector = LookalikeDetector()
    for name in ("source", "made", "scratch"):
        (tmp_path / name).mkdir(exist_ok=True)
    save_model(tmp_path / "source", model or detector.build(), build or Build())
    source = FakeArtifact(tmp_path / "source")
    return FakeContext(detector, {"source": source, "float": source}, tmp_path / "made", tmp_path / "scratch")


def test_structured_pruning_writes_a_smaller_loadable_model_and_tells_what_it_did(tmp_path):
    context = _context(tmp_path)
    facts = PruneStructured(
        target={"macs": 0.6}, importance="group_taylor", steps=2, round_to=4, training=QUICK, **FAST
    ).run(context)
    model, build = load_model(tmp_path / "made", context.detector)
    assert facts["macs"] == pytest.approx(0.6 * facts["before"]["macs"], rel=0.02)
    assert facts["params"] == sum(p.numel() for p in model.parameters()) < facts["before"]["params"]
    assert facts["parameters_bytes"] < facts["before"]["parameters_bytes"]
    assert facts["not_prunable"] == {"head.cls": "class scores", "head.conv_offset": "sampling field"}
    assert any(group["after"] < group["before"] for group in facts["groups"].values())
    assert [row["step"] for row in facts["steps"]] == [1, 2]
    assert build.provenance[-1]["stage"] == "prune_structured"
    images = context.detector.example_input(2)
    assert [o.shape[1] for o in model(images)] == [3, 3, 18, 18]


def test_a_target_of_one_changes_nothing(tmp_path):
    context = _context(tmp_path)
    facts = PruneStructured(target={"macs": 1.0}, importance="magnitude", training={"epochs": 1, **QUICK}, **FAST).run(
        context
    )
    source, _ = load_model(tmp_path / "source", context.detector)
    made, _ = load_model(tmp_path / "made", context.detector)
    assert facts["macs"] == facts["before"]["macs"]
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), made.state_dict().values(), strict=True))


def test_recovery_trains_after_each_step_with_a_teacher(tmp_path):
    context = _context(tmp_path)
    stage = PruneStructured(
        target={"params": 0.7},
        steps=2,
        distill={"teacher": "float"},
        round_to=4,
        training={"epochs": 1, "lr": 1e-3, **QUICK},
        **FAST,
    )
    facts = stage.run(context)
    assert stage.references() == ("float",)
    assert stage.splits() == ("train",)
    assert len(facts["history"]) == 2
    assert facts["params"] == pytest.approx(0.7 * facts["before"]["params"], rel=0.02)


def test_protected_layers_of_the_recipe_keep_their_width(tmp_path):
    context = _context(tmp_path)
    facts = PruneStructured(
        target={"macs": 0.8}, importance="magnitude", protect={"stem": "first layer"}, training=QUICK, **FAST
    ).run(context)
    model, _ = load_model(tmp_path / "made", context.detector)
    assert model.stem.out_channels == 16
    assert facts["not_prunable"]["stem"].startswith("first layer")


@pytest.mark.parametrize("target", [{}, {"latency_ms": 5, "speedup": 2}, {"macs": 0}, {"macs": 1.2}, {"flops": 0.5}])
def test_wrong_targets_are_refused(target):
    with pytest.raises(ValidationError):
        PruneStructured(target=target)


@pytest.mark.parametrize("schedule", ["cubic", "one_shot"])
def test_unstructured_pruning_reaches_its_sparsity_and_names_its_layers(tmp_path, schedule):
    context = _context(tmp_path)
    stage = PruneUnstructured(
        sparsity=0.6,
        schedule=schedule,
        update_every=2,
        training={"epochs": 2, "lr": 1e-3, "batch_size": 2, "warmup_steps": 0},
    )
    facts = stage.run(context)
    model, build = load_model(tmp_path / "made", context.detector)
    total = sum(weight.numel() for weight in (model.get_submodule(n).weight for n in build.sparse_layers))
    assert facts["sparsity"] == sparsity_of(model) == pytest.approx(0.6, abs=1 / total)
    assert facts["sparsity_of_layers"] == facts["sparsity"]
    assert len(facts["history"]) == 2
    assert "head.field" in build.sparse_layers


def test_unstructured_pruning_without_training_needs_no_data(tmp_path):
    stage = PruneUnstructured(sparsity=0.5, training={"epochs": 0}, skip=["head.*"])
    facts = stage.run(_context(tmp_path))
    assert stage.splits() == ()
    assert facts["sparsity_of_layers"] == pytest.approx(0.5, abs=1e-3)
    assert "head.cls" in facts["skipped"]


def test_less_sparsity_than_there_is_already_is_refused(tmp_path):
    model = LookalikeDetector().build()
    with torch.no_grad():
        model.block3.project.weight.zero_()
        model.out1.weight.zero_()
    with pytest.raises(StageError, match="below"):
        PruneUnstructured(sparsity=0.1, training={"epochs": 0}).run(_context(tmp_path, model))


def test_zeros_of_an_earlier_stage_stay_zero_even_in_skipped_layers(tmp_path):
    model = LookalikeDetector().build()
    with torch.no_grad():
        model.out1.weight[:16] = 0
    context = _context(tmp_path, model, Build(sparse_layers=("out1",)))
    PruneUnstructured(sparsity=0.3, training={"epochs": 1, "lr": 1e-2, "batch_size": 2}, skip=["out1"]).run(context)
    made, build = load_model(tmp_path / "made", context.detector)
    assert bool((made.out1.weight[:16] == 0).all())
    assert "out1" in build.sparse_layers


@pytest.mark.parametrize(
    "fields",
    [
        {"sparsity": 0.97},
        {"sparsity": 1.0},
        {"sparsity": 0.5, "schedule": "linear"},
        {"sparsity": 0.5, "training": {"schedule": "cosine", "milestones": [3]}},
    ],
)
def test_wrong_unstructured_fields_are_refused(fields):
    with pytest.raises(ValidationError):
        PruneUnstructured(**fields)


def test_illegal_orders_are_declared():
    assert set(PruneStructured.NOT_AFTER) == {"prune_unstructured", "qat"}
    assert PruneUnstructured.NOT_AFTER == ("qat",)


def test_the_key_of_a_stage_is_as_it_was_before_there_were_measured_limits():
    fields = PruneStructured(target={"macs": 0.6}).key_fields()
    assert fields["target"] == {"macs": 0.6, "params": None}
    assert fields["cost_aware"] is False
    assert PruneStructured(target={"speedup": 2}).key_fields()["target"]["speedup"] == 2


def test_a_compiled_part_is_refused_by_name(tmp_path):
    block = nn.Sequential(nn.Conv2d(3, 8, 1), torch.jit.script(nn.Conv2d(8, 8, 1)))
    with pytest.raises(StageError, match=r"block\.1 \(in Sequential\) was compiled by `torch\.jit`.* plain modules"):
        save_model(tmp_path, nn.ModuleDict({"block": block}), Build())
    assert not list(tmp_path.iterdir())
