"""DCFL needs no package of OpenMMLab: the whole plug-in while their imports fail."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mmcv", "mmengine", "mmdet", "mmrotate"}:
            raise ImportError(f"{name} is blocked by the test")
sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
from types import SimpleNamespace
from compress.plugins import find_plugin, make_detector
from detectors.dcfl import deploy
from detectors.dcfl.config import resolve_checkpoint
def detector(size=(64, 64), **fields):
    return make_detector({"plugin": "dcfl", "classes": ("a", "b"), "channels": 16} | fields, {"image_size": size})
"""
TRAIN = """
resnets = [{"backbone": name, "base_channels": 8} for name in ("resnet18", "resnet50")]
for fields in ({"backbone": "mobilenet_v2"}, *resnets):
    plugin = detector(**fields)
    model = plugin.build()
    plugin.set_train_mode(model)
    batch = SimpleNamespace(
        images=torch.randn(2, 3, 64, 64),
        boxes=[torch.tensor([[20.0, 24, 20, 8, 0.4]]), torch.zeros(0, 5)],
        labels=[torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
        ignored=[torch.zeros(0, 5)] * 2,
    )
    losses = plugin.loss(model, model(batch.images), batch)
    sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_bbox"}
    assert all(float(value.detach()) > 0 for value in losses.values()), losses
    assert float(next(model.backbone.parameters()).grad.abs().max()) > 0
"""
ZOO = """
from safetensors.torch import load_file
weights = load_file(resolve_checkpoint("zoo/dcfl_mbv2_hituav"))
classes = tuple(f"class{k}" for k in range(len(weights["head.retina_cls.bias"])))
channels = len(weights["head.cls_convs.0.conv.weight"])
plugin = detector(size=(200, 250), backbone="mobilenet_v2", channels=channels, classes=classes)
model = plugin.build()
plugin.load(model, "zoo/dcfl_mbv2_hituav")
for name, value in model.state_dict().items():
    assert torch.equal(value, weights[name]), name
with torch.no_grad():
    raw = model.eval()(plugin.example_input())
arrays = [value.numpy() for value in raw[: len(plugin.output_names())]]
deployed = deploy.make_deploy(plugin.metadata())
(found,) = deployed.postprocess(arrays, image_size=(200, 250), score_threshold=0.001)
assert len(found.scores) > 0
"""
PUBLISHED = """
from pathlib import Path
import tempfile
model = detector(backbone="resnet50", base_channels=8).build()
names = {key: key.replace("head.conv_offset.", "head.reg_convs.3.conv_offset.").replace("head.", "bbox_head.", 1)
         for key in model.state_dict()}
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "epoch_12.pth"
    torch.save({"state_dict": {names[key]: value for key, value in model.state_dict().items()}, "meta": {}}, path)
    state = find_plugin("dcfl").import_checkpoint(path)
assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
"""


def test_it_builds_trains_loads_and_decodes_while_openmmlab_is_blocked():
    code = "".join((BLOCKED, TRAIN, ZOO, PUBLISHED))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
