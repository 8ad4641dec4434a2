"""The published DCFL runs at full size: the real network, one real step, pruning, ONNX, through the stages themselves.

One recipe runs in `make test`, all in `make test-full`. No pretrained weights are downloaded; everything else is as the
recipes say, but for one step, one batch and one image of each.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compress.metrics.complexity import measure_complexity
from compress.model_folder import load_model
from compress.plugins import make_detector
from compress.recipe.loading import load_recipe
from compress.stage import StageContext
from detectors.data.dota_release import CLASSES as DOTA
from detectors.data.synthetic import write_dataset
from detectors.data.synthetic_scenes import SceneSettings

RECIPES = Path(__file__).parents[2] / "recipes"
IN_MAKE_TEST = "dcfl_r50_dota20"
CELLS = {1024: 21_824, 800: 13_343}  # of the five levels together
LAST_LAYER = 9 * 256  # weights of one class in retina_cls

# As published: image size, classes, epochs, milestones, batch, lr, dilation, K, Q, g, NMS IoU, detections an image.
PUBLISHED = {
    "dcfl_r50_dota10": (1024, 15, 36, (24, 33), 2, 0.0025, 4, 16, 12, 0.6, 0.4, 2000),
    "dcfl_r50_dota15": (1024, 16, 40, (24, 32, 38), 2, 0.0025, 3, 16, 12, 0.6, 0.4, 2000),
    "dcfl_r50_dota20": (1024, 18, 12, (8, 11), 2, 0.0025, 3, 16, 12, 0.6, 0.4, 2000),
    "dcfl_r101_dota20": (1024, 18, 12, (8, 11), 2, 0.0025, 3, 16, 12, 0.6, 0.4, 2000),
    "dcfl_r50_diorr": (800, 20, 40, (24, 32, 38), 4, 0.005, 3, 15, 13, 0.6, 0.5, 2000),
    "dcfl_r50_aitodr": (800, 8, 12, (8, 11), 2, 0.0025, 3, 16, 12, 0.8, 0.4, 3000),
}
ALL = [pytest.param(name, marks=() if name == IN_MAKE_TEST else pytest.mark.slow) for name in PUBLISHED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_says_what_was_published(name):
    recipe = load_recipe(RECIPES / f"{name}.yaml", check_requires=False)
    detector = make_detector(recipe.detector, recipe.data)
    config, data, training = detector.config, detector.data.config, recipe.stages[0].training
    assert recipe.stages[0].stage == "train"
    found = (
        data.image_size[0], len(config.classes), training.epochs, training.milestones, training.batch_size, training.lr,
        config.dilation, config.topk, config.topq, config.gauss_threshold, config.nms_iou, config.max_detections,
    )  # fmt: skip
    assert found == PUBLISHED[name]
    assert data.image_size[0] == data.image_size[1]
    assert config.backbone == ("resnet101" if "r101" in name else "resnet50")
    assert (config.channels, config.frozen_stages, config.norm_eval) == (256, 1, True)
    assert (config.backbone_weights, config.score_threshold) == ("imagenet", 0.05)
    assert config.nms_pre == config.max_detections
    assert (training.optimizer, training.momentum, training.weight_decay, training.grad_clip) == ("sgd", 0.9, 1e-4, 35)
    assert (training.schedule, training.warmup_steps, training.ema_decay, training.max_steps) == (
        "step",
        500,
        None,
        None,
    )
    assert (data.flip_probability, data.min_edge_px, data.train_difficulty) == (0.25, 2, 2)
    assert (data.crop, data.brightness_jitter, data.contrast_jitter) == (None, 0, 0)
    if "dota" in name:
        assert config.classes == DOTA[f"{name[-2]}.{name[-1]}"]
    stages = [stage.stage for stage in recipe.stages]
    assert stages[2:] == [
        "prune_structured", "finetune", "prune_unstructured", "qat", "export_onnx", "pack", "benchmark", "report",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_owns_up_to_what_it_does_not_know(name):
    comment = " ".join(line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("#"))
    assert "no number of it is known" in comment
    assert "Published: " in comment or "No schedule is published for this backbone" in comment
    assert "Not as published" in comment


@pytest.fixture(autouse=True)
def all_cores():
    """Other tests leave one thread behind; these are large enough for all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """Return a function from a side to a synthetic data set of that size, drawn once."""
    made = {}

    def draw(side):
        if side not in made:
            made[side] = tmp_path_factory.mktemp("data") / str(side)
            counts = {"train": 1, "trainval": 1, "val": 1, "test": 1}
            write_dataset(made[side], SceneSettings(size=(side, side), counts=counts, empty_share=0.0))
        return made[side]

    return draw


def recipe_of(name, root, *overrides):
    names = {"dota": "{vehicle: small-vehicle}"}.get("dota" if "dota" in name else "", "{plane: airplane}")
    fields = [f"data.root={root}", "data.ignore=[dontcare]", f"data.merge={names}", "data.num_workers=0"]
    fields += ["detector.backbone_weights=null", "stages[0].training.batch_size=1", "stages[0].training.max_steps=1"]
    fields += [
        "stages[2].training.batch_size=1",
        "stages[2].steps=1",
        "stages[2].taylor_batches=1",
        "stages[2].bn_batches=1",
    ]
    fields += ["stages[1].parity_images=1"]
    return load_recipe(RECIPES / f"{name}.yaml", [*fields, *overrides])


def run_stage(recipe, index, folder, source=None):
    """Run a stage of a recipe as the pipeline does, and return what is left of it: path and facts."""
    target = folder / f"{index}"
    target.mkdir()
    stage = recipe.stages[index]
    context = StageContext(
        name=stage.label,
        folder=target,
        scratch=folder / f"{index}_scratch",
        inputs={} if source is None else {"source": source},
        detector=make_detector(recipe.detector, recipe.data),
        seed=0,
        device="cpu",
        record=recipe.model_dump(mode="json", by_alias=True),
    )
    return SimpleNamespace(path=target, facts=stage.run(context))


@pytest.mark.parametrize("name", PUBLISHED)
def test_network_of_each_recipe_has_the_published_size(name):
    side, num_classes = PUBLISHED[name][:2]
    recipe = recipe_of(name, "/nowhere")
    with torch.device("meta"):  # shapes without values: every layer runs, nothing is computed
        network = make_detector(recipe.detector, recipe.data).build()
        complexity = measure_complexity(network, torch.empty(1, 3, side, side))
    check_size(name, side, num_classes, {"params": complexity.params, "macs": complexity.macs})


@pytest.mark.parametrize("name", ALL)
def test_real_network_takes_a_step_is_pruned_and_runs_in_onnx_runtime(name, data_of, tmp_path):
    side, num_classes = PUBLISHED[name][:2]
    recipe = recipe_of(name, data_of(side))
    trained = run_stage(recipe, 0, tmp_path)
    check_size(name, side, num_classes, trained.facts)
    check_step(recipe, trained)

    # What pruning removes does not depend on the size of the picture; a smaller one spares minutes.
    small = recipe_of(name, data_of(side), "data.image_size=[512, 512]")
    pruned = run_stage(small, 2, tmp_path, trained)
    reached = pruned.facts["reached"]["macs"]
    assert reached["after"] / reached["before"] == pytest.approx(0.65, abs=0.02)
    assert pruned.facts["params"] < trained.facts["params"]
    assert pruned.facts["not_prunable"].keys() >= {"head.conv_offset", "head.retina_cls", "head.retina_reg"}

    exported = run_stage(small if name == IN_MAKE_TEST else recipe, 1, tmp_path, pruned)
    parity = exported.facts["parity"]["relative_error"]
    assert set(parity) == set(make_detector(recipe.detector, recipe.data).output_names())
    assert max(parity.values()) < 1e-3  # float against float


def check_size(name, side, num_classes, facts):
    """Compare with 36.34 M parameters and 208.6 GMACs (18 classes, ResNet-50, 1024 px), and what follows from them."""
    deeper = 17 if "r101" in name else 0  # more blocks in the third stage: 1x1, 3x3, 1x1 and their norms
    block = 2 * 1024 * 256 + 9 * 256 * 256
    norms = 2 * (256 + 256 + 1024)
    assert facts["params"] == 36_340_338 - (18 - num_classes) * (LAST_LAYER + 1) + deeper * (block + norms)
    gmacs = {1024: 208.6, 800: 127.5}[side]
    gmacs += (deeper * block * (side // 16) ** 2 - (18 - num_classes) * LAST_LAYER * CELLS[side]) / 1e9
    assert facts["macs"] / 1e9 == pytest.approx(gmacs, abs=0.06)


def check_step(recipe, trained):
    """Check that one step moved every free weight, and neither the frozen stages nor any statistic of a batch norm."""
    detector = make_detector(recipe.detector, recipe.data)
    torch.manual_seed(0)
    before = detector.build().state_dict()
    after = load_model(trained.path, detector)[0].state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    frozen = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    assert not [key for key in moved if key.startswith(frozen) or "running" in key]
    for key in ("backbone.layer2.0.conv1.weight", "neck.fpn_convs.3.conv.weight", "head.retina_cls.weight"):
        assert key in moved
    assert "head.cls_convs.3.weight" in moved
    (epoch,) = trained.facts["history"]
    assert len(epoch["losses"]) >= 2
    assert all(value > 0 for value in epoch["losses"].values())
