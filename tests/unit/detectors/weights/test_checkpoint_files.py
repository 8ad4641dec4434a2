"""Files of other programs: what is read of them, what stays an inert placeholder, and what is refused."""

import io
import logging
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.errors import CompressError, DetectorError
from detectors.weights.pickled import Call, Name, PickleError, load_pickle
from detectors.weights.reading import below_wrapper, fitted_names, load_strictly, read_file, read_tensors
from scripts.fuzz_checkpoints import check, inputs

NET = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
STATE = NET.state_dict()
OTHER = {name: value + 1 if value.is_floating_point() else value for name, value in STATE.items()}
AS_LISTED = OrderedDict(STATE)


@pytest.fixture
def history_buffer(monkeypatch):
    """Return MMEngine's HistoryBuffer, which is gone again when the file is read: nothing may import it."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.arange(5.0)
            self._statistics_methods = OrderedDict(mean=len)

    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", types.ModuleType("mmengine.logging"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return HistoryBuffer


def assert_is(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_mmengine_is_read_and_its_objects_stay_placeholders(
    tmp_path, history_buffer, monkeypatch, caplog, zipped
):
    optimizer = torch.optim.SGD(NET.parameters(), 0.1, 0.9).state_dict()
    content = {
        "meta": {"epoch": 12, "CLASSES": ("a", "b"), "mAP": np.float64(0.5), "seed": np.int64(3), "deep": [[1]]},
        "state_dict": STATE,
        "message_hub": {"log_scalars": {"train/loss": history_buffer()}},
        "optimizer": optimizer,
        "param_schedulers": [{"last_step": 3}],
        "ema_state_dict": OTHER,
    }
    torch.save(content, tmp_path / "epoch_12.pth", _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    with caplog.at_level(logging.INFO):
        found, meta = read_file(tmp_path / "epoch_12.pth")
    assert_is(found, STATE)
    assert meta == {"epoch": 12, "CLASSES": ("a", "b"), "mAP": 0.5, "seed": 3}
    assert not [name for name in set(sys.modules) - before if name.startswith("mmengine")]
    (told,) = [record.message for record in caplog.records if "taken" in record.message]
    assert f"{len(STATE)} tensors of 'state_dict' taken, left: meta, message_hub (mmengine.logging.history" in told
    assert "HistoryBuffer not built), optimizer, param_schedulers, ema_state_dict" in told


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (AS_LISTED, STATE),
        ({f"module.{name}": value for name, value in STATE.items()}, STATE),
        ({f"module.module.{name}": value for name, value in STATE.items()}, STATE),
        ({f"_orig_mod.module.{name}": value for name, value in STATE.items()}, STATE),
        ({"model_state_dict": STATE, "optimizer_state_dict": {}, "epoch": 3}, STATE),
        ({"net": STATE, "step": 1}, STATE),
        ({"model": {"state_dict": STATE}}, STATE),
        ({"state_dict_ema": OTHER, "state_dict": STATE}, OTHER),
        ({"ema": {"module": OTHER, "updates": 7}, "model": STATE}, OTHER),
        ({"ema": None, "model": NET}, STATE),
        ({"ema": {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in OTHER.items()}}, OTHER),
        ({"state_dict": STATE | {f"ema_{k.replace('.', '_')}": v for k, v in OTHER.items()}}, STATE),
        ({"generator": STATE, "optimizer": {"a": torch.ones(1)}, "epoch": 1}, STATE),
        (NET, STATE),
        ({"state_dict": STATE | {"x._extra_state": None}}, STATE),
        ({f"_fsdp_wrapped_module.{name}": value for name, value in STATE.items()}, STATE),
        ({name.replace(".", "._checkpoint_wrapped_module."): value for name, value in STATE.items()}, STATE),
        ({f"module.{name.replace('.', '._orig_mod.')}": value for name, value in STATE.items()}, STATE),
        (STATE | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, STATE),
        ({"params_ema": OTHER, "params": STATE}, OTHER),
        ({"checkpoint": {"model": {"state_dict": STATE}}, "epoch": 1}, STATE),
        ({"checkpoint": {"model": STATE, "ema": OTHER}}, OTHER),
        ({"model": {name: value.numpy() for name, value in STATE.items()}}, STATE),
    ],
)
def test_tables_of_other_programs_are_found_under_the_names_of_the_network(tmp_path, content, expected, zipped):
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_is(read_tensors(tmp_path / "w.pth"), expected)
    if isinstance(content, OrderedDict):
        save_file({f"module.{k}": v for k, v in content.items()}, tmp_path / "w.safetensors")
        assert_is(read_tensors(tmp_path / "w.safetensors"), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_keep_type_order_and_shared_memory(tmp_path, zipped):
    base = torch.arange(24.0)
    state = {
        "t": base.view(4, 6).t(), "part": base[3:9], "half": torch.ones(3, dtype=torch.float16),
        "empty": torch.empty(0, 4), "bf": torch.tensor([1.5], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]), "one": torch.tensor(3),
        "byte": torch.tensor([1, 255], dtype=torch.uint8), "param": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_is(read_tensors(tmp_path / "w.pth"), {name: value.detach() for name, value in state.items()})


def test_arrays_of_numpy_are_tensors(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones((2, 3), order="F"),
        "c": np.zeros(0, "i8"),
        "d": np.array(7),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays}))
    assert_is(
        read_tensors(tmp_path / "w.pkl"), {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    )


class Trap:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_calls_a_program_is_refused_and_one_of_unknown_classes_runs_nothing(tmp_path, zipped):
    import os

    for number, call in enumerate([(os.system, ("touch ran",)), (eval, ("1",)), (exec, ("1",))]):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": STATE, "x": Trap(call)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(DetectorError, match=r"no readable weights: it wants to run \w+\.\w+, which is not loaded"):
            read_tensors(path)
    called = []
    Trap.later = staticmethod(lambda *_: called.append(1))
    path = tmp_path / "own.pth"
    torch.save({"state_dict": STATE, "x": Trap((Trap, (1,)))}, path, _use_new_zipfile_serialization=zipped)
    assert_is(read_tensors(path), STATE)
    assert called == []


def zipped_with(tmp_path, change):
    out = io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, out)
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(out) as archive, zipfile.ZipFile(path, "w") as other:
        change({name: archive.read(name) for name in archive.namelist()}, other)
    return path


def test_an_archive_cannot_take_more_memory_than_it_has_bytes(tmp_path):
    def bomb(records, other):
        for name, content in records.items():
            data = bytes(1 << 26) if name.endswith("data/0") else content
            other.writestr(name, data, zipfile.ZIP_DEFLATED if name.endswith("data/0") else zipfile.ZIP_STORED)

    with pytest.raises(DetectorError, match="compressed or of 67108864 bytes, 16 at most"):
        read_tensors(zipped_with(tmp_path, bomb))
    torch.save({"w": torch.ones(1).expand(10**12)}, tmp_path / "w.pth")
    with pytest.raises(DetectorError, match="a tensor of 1000000000000 numbers in a storage of 4 bytes"):
        read_tensors(tmp_path / "w.pth")


def test_numbers_of_the_other_byte_order_are_turned(tmp_path):
    def other_order(records, other):
        for name, content in records.items():
            turned = np.frombuffer(content, "<f4").astype(">f4").tobytes() if name.endswith("data/0") else content
            other.writestr(name, b"big" if name.endswith("byteorder") else turned)

    assert read_tensors(zipped_with(tmp_path, other_order))["w"].tolist() == [0, 1, 2, 3]


def test_programs_of_torchscript_are_called_so(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "w.pt"))
    with pytest.raises(DetectorError, match=r"a TorchScript program, expected weights: save its state_dict\(\)"):
        read_tensors(tmp_path / "w.pt")


def test_wrappers_around_and_inside_a_network_are_seen_through():
    state = {f"model.0.module.{name[2:]}" if name[0] == "0" else f"model.{name}": v for name, v in STATE.items()}
    assert fitted_names(STATE.keys(), state).keys() == STATE.keys()
    target = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    load_strictly(target, state, where="w", check="x")
    assert_is(target.state_dict(), STATE)
    assert below_wrapper({"a.neck.x": 1, "b.neck.x": 2}, {"neck"}) == {"a.neck.x": 1, "b.neck.x": 2}
    with pytest.raises(DetectorError, match=r"unexpected model\.2\.weight"):
        load_strictly(target, {"model.2.weight": torch.zeros(1)}, where="w", check="x")


def prefixed(first, state):
    return {f"{first}.{name}": value for name, value in state.items()}


def test_what_a_program_keeps_beside_a_network_is_left_and_of_two_copies_the_averaged_one_is_taken(caplog):
    caplog.set_level(logging.INFO)
    beside = prefixed("model", STATE) | {"criterion.weight": torch.ones(3), "step": torch.ones(1)}
    target = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    load_strictly(target, beside, where="w", check="x")
    assert_is(target.state_dict(), STATE)
    assert f"the {len(STATE)} tensors of 'model' are taken, 2 beside it are left" in caplog.text
    load_strictly(target, prefixed("student", STATE) | prefixed("teacher", OTHER), where="w", check="x")
    assert_is(target.state_dict(), OTHER)
    with pytest.raises(DetectorError, match="tensors do not fit"):  # nothing tells which of them
        load_strictly(target, prefixed("a", STATE) | prefixed("b", OTHER), where="w", check="x")


def test_tables_that_nothing_tells_apart_are_named(tmp_path):
    torch.save({"netG": STATE, "netD": OTHER}, tmp_path / "w.pth")
    with pytest.raises(DetectorError, match="tables of tensors in netG, netD, and none is named as weights"):
        read_tensors(tmp_path / "w.pth")


def test_a_pickle_becomes_data_and_deep_or_endless_keys_harm_nothing():
    words = b"(" * 20_000 + b"t" * 20_000
    assert load_pickle(io.BytesIO(b"\x80\x02}" + words + b"K\x01s.")) is not None
    found = load_pickle(io.BytesIO(pickle.dumps({"a": [1, 2.5, "x", b"y", None, True, (1, 2)], "b": {3}})))
    assert found["a"] == [1, 2.5, "x", b"y", None, True, (1, 2)]
    assert isinstance(found["b"], Call)
    assert load_pickle(io.BytesIO(b"cno.such\nName\n.")) == Name("no.such", "Name")
    for bad in (b"", b".", b"0.", b"}K\x01K\x02K\x03u.", b"\x94.", b"h\x07.", b"\x82\x01.", b"N" * 10):
        with pytest.raises(PickleError):
            load_pickle(io.BytesIO(bad))


@pytest.mark.long
def test_mutated_files_are_read_or_refused(tmp_path):
    """The same as scripts/fuzz_checkpoints.py does for minutes."""
    import random

    outcomes = {"read": 0, "refused": 0}
    for number, (suffix, data) in enumerate(inputs(random.Random(11))):
        if number == 400:
            break
        path = tmp_path / f"w{suffix}"
        path.write_bytes(data)
        outcomes[check(path)] += 1
    assert min(outcomes.values()) > 40
    assert issubclass(DetectorError, CompressError)
