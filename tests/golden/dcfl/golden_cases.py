"""The folder of golden numbers: which cases it lists, and how they are read.

The folder is KRIMP_GOLDEN_DIR, by default ../shared/golden/dcfl; its manifest says what is in it. Cases, seeds
and sizes are the folder's business: nothing here knows a scene by name. A second, small folder of the same form
is `vectors/`, made by `make_vectors.py` with float64 code that shares nothing with the plug-in; its cases have
names that begin with 'own/', and the same tests check them.
"""

import hashlib
import json
import os
import re
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.dcfl.names import from_published_names
from detectors.dcfl.network import DcflNetwork
from detectors.dcfl.published import architecture_of

FOLDER = Path(os.environ.get("KRIMP_GOLDEN_DIR") or Path(__file__).parents[4] / "shared" / "golden" / "dcfl")
OWN = "own/"
OWN_FOLDER = Path(__file__).parent / "vectors"
ABSENT = f"no golden numbers in {FOLDER}; set KRIMP_GOLDEN_DIR"
LEVELS = (3, 4, 5, 6, 7)
STRIDES = (8, 16, 32, 64, 128)

needs_golden = pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT)


def listed_files(folder) -> dict:
    """Return file -> facts as the manifest lists them; {} where there is no manifest."""
    manifest = folder / "manifest.json"
    return json.loads(manifest.read_text())["files"] if manifest.is_file() else {}


FILES = listed_files(FOLDER) | {f"{OWN}{name}": entry for name, entry in listed_files(OWN_FOLDER).items()}


def path_of(name):
    """Return where a listed file lies."""
    return OWN_FOLDER / name.removeprefix(OWN) if name.startswith(OWN) else FOLDER / name


def cases(pattern, condition=lambda name: True):
    """Return the listed cases (paths without suffix) that fit both; a skipped one if the folder has none."""
    names = [name for name in FILES if name.endswith(".npz") and fnmatch(name.removeprefix(OWN), pattern)]
    found = sorted(name for name in (name.removesuffix(".npz") for name in names) if condition(name))
    if any(not name.startswith(OWN) for name in found):
        return found
    reason = f"the manifest lists no {pattern}" if FOLDER.is_dir() else ABSENT
    return [*found, pytest.param("", marks=pytest.mark.skip(reason=reason))]


def keys_of(name):
    return list(FILES[f"{name}.npz"]["arrays"])


def matching(pattern, expression):
    """Return (case, match) for each array of the fitting cases whose name fits the regular expression."""
    found = [
        pytest.param(name, match, id=f"{name}:{match[0]}")
        for name in cases(pattern)
        if isinstance(name, str)
        for key in keys_of(name)
        if (match := re.fullmatch(expression, key))
    ]
    if any(not param.values[0].startswith(OWN) for param in found):
        return found
    reason = f"no array {expression} in {pattern}" if FOLDER.is_dir() else ABSENT
    return [*found, pytest.param("", None, marks=pytest.mark.skip(reason=reason))]


def read(name):
    with np.load(path_of(f"{name}.npz"), allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def facts(name):
    return json.loads(path_of(f"{name}.json").read_text())


def scene(name):
    case = read(name)
    return case | {"deltas": case["bbox_deltas"].T.contiguous(), "logits": case["cls_logits"].T.contiguous()}


def weight_by_name(name, shape):
    """Return the tensor that section 4 of the README of the golden numbers defines for a parameter name."""
    if name.endswith(".num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    value = 2 * np.random.Generator(np.random.PCG64(seed)).random(tuple(shape)) - 1
    if name.endswith(".running_mean"):
        value = 0.1 * value
    elif name.endswith(".running_var"):
        value = 1 + 0.2 * value
    elif name == "bbox_head.retina_cls.bias":
        value = -4.6 + 0.1 * value
    elif name.endswith(".bias"):
        value = 0.1 * value
    elif len(shape) == 1:
        value = (1 + 0.1 * value) * (0.3 if "bn3" in name else 1)
    else:
        gain = 1.0
        if name.startswith("backbone") or (name.startswith("bbox_head") and ".conv." in name):
            gain = np.sqrt(2)
        elif "retina_reg" in name:
            gain = 0.3
        value = gain * np.sqrt(3 / np.prod(shape[1:])) * value
    return torch.from_numpy(np.asarray(value, np.float32))


def published_state(name):
    """Return the weights of the network of a detector case, under the published names."""
    stored = f"{name.rsplit('/', 1)[0]}/weights"
    if f"{stored}.npz" in FILES:
        return read(stored)
    return {key: weight_by_name(key, shape) for key, shape in facts(name)["parameters"]["shapes"].items()}


@lru_cache(maxsize=1)
def network(folder, dilation, case):
    """Return the network of a folder of detector cases; its form is read off its weights."""
    state = from_published_names(published_state(case))
    form = architecture_of(state)
    model = DcflNetwork(form.backbone, form.num_classes, form.channels, dilation, form.base_channels)
    model.load_state_dict(state)
    return model.eval()


def network_of(name):
    return network(name.rsplit("/", 1)[0], facts(name)["dilation_rate"], name)


def assert_near(found, expected, *, absolute=0.0, relative=0.0):
    torch.testing.assert_close(found, expected.to(found.dtype), atol=absolute, rtol=relative)


def angle_gap(first, second):
    """Return the largest difference of angles modulo pi."""
    gap = (torch.as_tensor(first).double() - torch.as_tensor(second).double()) % np.pi
    return float(torch.minimum(gap, np.pi - gap).max()) if len(gap) else 0.0


def assert_boxes_near(found, expected, *, absolute, relative=0.0, angle=1e-5):
    found, expected = (torch.as_tensor(boxes).double() for boxes in (found, expected))
    assert_near(found[:, :4], expected[:, :4], absolute=absolute, relative=relative)
    assert angle_gap(found[:, 4], expected[:, 4]) <= angle
