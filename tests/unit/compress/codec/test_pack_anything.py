"""Files of strangers at the command line: what they are, where they lie, which names they have, what they replace."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save, save_file
from typer.testing import CliRunner

from compress import codec
from compress.cli.packing import app
from compress.codec.files import network_source
from compress.errors import CodecError
from compress.outputs import MANIFEST

VALUES = np.random.default_rng(0).binomial(9, 0.5, 900).astype(np.int8)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def onnx_bytes(name="w", external=()):
    """Return a model with a tensor of its own and one in each of some other files."""
    tensors = [numpy_helper.from_array(VALUES, name)]
    for number, location in enumerate(external):
        tensor = TensorProto(name=f"e{number}", data_type=3, dims=[900], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        tensors.append(tensor)
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info(name, TensorProto.INT8, [900])], tensors)
    return helper.make_model(graph).SerializeToString()


def with_external(folder, *locations):
    folder.mkdir(exist_ok=True, parents=True)
    for location in locations:
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(VALUES.tobytes())
    (folder / "model.onnx").write_bytes(onnx_bytes(external=locations))
    return folder / "model.onnx"


def sharded(folder):
    folder.mkdir(parents=True)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        save_file({f"w{number}": VALUES + np.int8(number), f"b{number}": np.full(3, number, np.float32)}, folder / name)
    weights = {f"{letter}{number}": name for number, name in enumerate(names) for letter in "wb"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}))
    return index


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


# --- what is replaced


def test_onnx_and_safetensors_of_one_name_do_not_share_an_output(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    save_file({"w": VALUES}, tmp_path / "model.safetensors")
    (tmp_path / "model.v2").write_bytes(onnx_bytes("v"))
    before = files_of(tmp_path)
    for name in before:
        assert run("pack", tmp_path / name).exit_code == 0
    packed = {name for name in files_of(tmp_path) if name.endswith(".krimp")}
    assert packed == {"model.krimp", "model.safetensors.krimp", "model.v2.krimp"}
    for name in before:
        (tmp_path / name).unlink()
    for name in packed:
        assert run("unpack", tmp_path / name).exit_code == 0
    after = files_of(tmp_path)
    assert after["model.onnx"] == before["model.onnx"]
    assert after["model.safetensors"] == before["model.safetensors"]
    assert after["model.v2.onnx"] == before["model.v2"]


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_a_file_of_somebodys_is_never_replaced_and_repeating_works(tmp_path, command):
    (tmp_path / "in.onnx").write_bytes(onnx_bytes())
    codec.pack_file(tmp_path / "in.onnx", tmp_path / "in.krimp")
    source = tmp_path / ("in.onnx" if command == "pack" else "in.krimp")
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    result = run(command, source, "-o", out)
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert f"not as an earlier `krimp {command}` left it" in result.stderr
    assert out.read_bytes() == b"precious"
    assert run(command, source, "-o", out, "--force").exit_code == 0
    assert run(command, source, "-o", out).exit_code == 0
    out.write_bytes(b"precious again")
    assert run(command, source, "-o", out).exit_code == 5
    assert out.read_bytes() == b"precious again"


def test_unpacking_over_the_very_same_file_loses_nothing(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes())
    assert run("pack", tmp_path / "model.onnx").exit_code == 0
    assert run("unpack", tmp_path / "model.krimp").exit_code == 0
    (tmp_path / "model.onnx").write_bytes(b"precious")
    assert run("unpack", tmp_path / "model.krimp").exit_code == 5
    assert (tmp_path / "model.onnx").read_bytes() == b"precious"


def test_files_beside_the_model_are_replaced_only_as_unpack_left_them(tmp_path):
    model = with_external(tmp_path / "a", "w.bin")
    codec.pack_file(model, tmp_path / "m.krimp")
    out = tmp_path / "out"
    assert run("unpack", tmp_path / "m.krimp", "--into", out).exit_code == 0
    (tmp_path / "a" / "w.bin").write_bytes(bytes(900))
    codec.pack_file(model, tmp_path / "m.krimp")
    assert run("unpack", tmp_path / "m.krimp", "--into", out).exit_code == 0
    assert (out / "w.bin").read_bytes() == bytes(900)
    (out / "w.bin").write_bytes(b"precious")
    result = run("unpack", tmp_path / "m.krimp", "--into", out)
    assert (result.exit_code, (out / "w.bin").read_bytes()) == (5, b"precious")
    assert run("unpack", tmp_path / "m.krimp", "--into", out, "--force").exit_code == 0
    assert (out / "w.bin").read_bytes() == bytes(900)


# --- which names


def test_side_files_are_listed_before_they_are_written(tmp_path):
    model = with_external(tmp_path / "a", "Makefile", "sub/w.bin")
    codec.pack_file(model, tmp_path / "m.krimp")
    result = run("unpack", tmp_path / "m.krimp", "--into", tmp_path / "new" / "deep")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.index("Makefile  900 bytes") < result.stdout.index("hash matches")
    assert result.stdout.index("sub/w.bin  900 bytes") < result.stdout.index("hash matches")
    found = files_of(tmp_path / "new" / "deep")
    assert found == {"m.onnx": model.read_bytes(), "Makefile": VALUES.tobytes(), "sub/w.bin": VALUES.tobytes()}
    result = run("unpack", tmp_path / "m.krimp", "--into", tmp_path, "-o", tmp_path / "x")
    assert (result.exit_code, "expected one of them" in result.stderr) == (5, True)


BAD_NAMES = [
    ".bash_profile", ".git/hooks/post-checkout", "a/.ssh/authorized_keys", "sub/.hidden/w.bin", ".GIT/config",
    "git~1/config", "GIT~2/hooks/x", "a\u202egpj.py", "a\u200bb", "x" * 256, "é" * 128, "a/" + "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_hurt_are_refused_when_packing_and_when_unpacking(tmp_path, name, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(onnx_bytes(external=[name]))
    result = run("pack", tmp_path / "m.onnx")
    assert (result.exit_code, result.stderr.count("\n")) == (5, 1)
    assert "expected a file beside the model or below" in result.stderr
    assert result.stderr.strip().isprintable()
    # A stranger's file was packed by something that does not ask.
    real, side = network_source.open_map, memoryview(VALUES.tobytes())
    monkeypatch.setattr(network_source, "_name_inside", lambda _, tensor: tensor.location)
    monkeypatch.setattr(network_source, "open_map", lambda path: real(path) if path.name == "m.onnx" else side)
    codec.pack_file(tmp_path / "m.onnx", tmp_path / "m.krimp")
    out = tmp_path / "home"
    out.mkdir()
    result = run("unpack", tmp_path / "m.krimp", "-o", out / "model.onnx")
    assert result.exit_code == 5
    assert "Nothing was written" in result.stderr
    assert result.stderr.strip().isprintable()
    assert os.listdir(out) == []  # noqa: PTH208
    assert np.array_equal(codec.load_tensors(tmp_path / "m.krimp", ["e0"])["e0"], VALUES)


def test_names_as_long_as_the_file_system_takes_come_back(tmp_path):
    name = "x" * 251 + ".bin"
    codec.pack_file(with_external(tmp_path / "a", name), tmp_path / "m.krimp")
    assert run("unpack", tmp_path / "m.krimp", "--into", tmp_path / "b").exit_code == 0
    assert (tmp_path / "b" / name).read_bytes() == VALUES.tobytes()


@pytest.mark.parametrize("target", ["sub/new", "../outside/new"])
def test_a_link_in_the_place_of_a_side_file_is_not_written_through(tmp_path, target):
    codec.pack_file(with_external(tmp_path / "a", "w.bin"), tmp_path / "m.krimp")
    out = tmp_path / "home"
    (out / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (out / "w.bin").symlink_to(target)
    for force in ((), ("--force",)):
        assert run("unpack", tmp_path / "m.krimp", "-o", out / "m.onnx", *force).exit_code == 5
    assert not (out / target).exists()
    assert not (out / "m.onnx").exists()


def test_names_of_tensors_and_files_cannot_forge_a_message(tmp_path):
    name = "\x1b]0;OWNED\x07\x1b[2J\x1b[31mw\nmodel.krimp: whole and intact\u202e"
    (tmp_path / "m.onnx").write_bytes(onnx_bytes(name))
    (tmp_path / "a\nb: whole and intact.onnx").write_bytes(onnx_bytes())
    assert run("pack", tmp_path / "m.onnx").exit_code == 0
    for file in ("m.krimp", "m.onnx"):
        shown = run("inspect", tmp_path / file).stdout
        assert all(line.isprintable() for line in shown.splitlines())
        assert not any(line.startswith("model.krimp") for line in shown.splitlines())
        assert json.loads(run("inspect", tmp_path / file, "--json").stdout)[0]["name"] == name
    for command, file in (("pack", "a\nb: whole and intact.onnx"), ("verify", "a\nb: whole and intact.krimp")):
        result = run(command, tmp_path / file)
        assert (result.exit_code, result.stdout.count("\n")) == (0, 1)


# --- what a file is


def torch_file(zipped):
    import torch

    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def zip_of(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"content")
    return buffer.getvalue()


FOREIGN = {
    "PyTorch": torch_file(zipped=True),
    "old PyTorch": torch_file(zipped=False),
    "GGUF": b"GGUF\x03\0\0\0" + bytes(100),
    r"\.ort file": b"\x20\0\0\0ORTM" + bytes(100),
    "TensorFlow Lite": b"\x1c\0\0\0TFL3" + bytes(100),
    "gzip": b"\x1f\x8b\x08\0" + bytes(100),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "xz": b"\xfd7zXZ\0" + bytes(100),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "npz": zip_of("arr_0.npy"),
    "zip archive": zip_of("model.onnx"),
    "HTML": b"<!DOCTYPE html><html></html>",
    "tar": bytes(257) + b"ustar\x0000" + bytes(300),
}


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".pt", ""])
@pytest.mark.parametrize("what", FOREIGN)
def test_other_formats_are_named_whatever_the_file_is_called(tmp_path, what, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(FOREIGN[what])
    for work in (codec.pack_file, lambda path, _: codec.inspect_file(path)):
        with pytest.raises(CodecError, match=rf"byte 0: is .*{what}.*Expected an ONNX or safetensors file\. [A-Z]"):
            work(path, tmp_path / "x.krimp")


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".bin", ".ONNX", ""])
def test_the_container_is_told_by_content(tmp_path, suffix):
    for number, content in enumerate((onnx_bytes(), save({"w": VALUES}))):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        codec.pack_file(path, tmp_path / "x.krimp")
        with codec.PackedFile(tmp_path / "x.krimp") as packed:
            assert packed.header.container == number
        assert codec.unpack_bytes(tmp_path / "x.krimp") == content
        assert np.array_equal(codec.load_tensors(tmp_path / "x.krimp")["w"], VALUES)


# --- where it lies


@pytest.mark.parametrize("given", ["folder", "index"])
def test_sharded_safetensors_are_packed_as_one_and_come_back_as_they_were(tmp_path, given):
    index = sharded(tmp_path / "net")
    result = run("pack", index if given == "index" else index.parent, "-o", tmp_path / "net.krimp")
    assert result.exit_code == 0, result.stderr
    assert run("unpack", tmp_path / "net.krimp", "--into", tmp_path / "new").exit_code == 0
    assert files_of(tmp_path / "new") == files_of(index.parent)
    found = codec.load_tensors(tmp_path / "net.krimp")
    assert sorted(found) == ["b0", "b1", "b2", "w0", "w1", "w2"]
    assert all(np.array_equal(found[f"w{n}"], VALUES + np.int8(n)) for n in range(3))
    assert {fact.name for fact in codec.inspect_file(tmp_path / "net.krimp")} >= {"w0", "w1", "w2"}
    assert {fact.name for fact in codec.inspect_file(index)} == set(found)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_no_file_of_a_network_is_written_over_by_its_own_packed_file(tmp_path, force):
    index = sharded(tmp_path / "net")
    model = with_external(tmp_path / "other", "w.bin")
    before = files_of(tmp_path)
    cases = [(given, path) for given in (index, index.parent) for path in sorted(index.parent.iterdir())]
    cases += [(given, path) for given in (model, model.parent) for path in (model, model.parent / "w.bin")]
    for given, path in cases:
        assert run("pack", given, "-o", path, *force).exit_code == 5
        with pytest.raises(CodecError, match="would be lost"):
            codec.pack_file(given, path)
    assert files_of(tmp_path) == before


def test_an_index_that_leads_elsewhere_or_is_none_is_refused(tmp_path):
    index = sharded(tmp_path / "net")
    (tmp_path / "secret.safetensors").write_bytes(save({"s": VALUES}))
    for content, text in (
        ({"weight_map": {"a": "../secret.safetensors"}}, "not a plain relative path"),
        ({"weight_map": {"a": ".hidden"}}, "hidden"),
        ({"weight_map": {"a": 3}}, "no index of sharded safetensors"),
        ({"weight_map": {}}, "names no files"),
        ([], "no index of sharded safetensors"),
        ({"weight_map": {"a": "gone.safetensors"}}, "cannot be read"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(CodecError, match=text):
            codec.pack_file(index, tmp_path / "x.krimp")


def test_a_folder_with_one_network_is_packed_and_one_with_several_asks_which(tmp_path):
    model = with_external(tmp_path / "net", "weights.bin")
    (tmp_path / "net" / "config.json").write_text("{}")
    result = run("pack", tmp_path / "net")
    assert result.exit_code == 0, result.stderr
    assert "model.onnx, the network in the folder" in result.stdout
    assert run("unpack", tmp_path / "net.krimp", "--into", tmp_path / "new").exit_code == 0
    assert (tmp_path / "new" / "net.onnx").read_bytes() == model.read_bytes()
    (tmp_path / "net" / "b.onnx").write_bytes(onnx_bytes())
    result = run("pack", tmp_path / "net")
    assert (result.exit_code, "2 networks (b.onnx, model.onnx). Name one" in result.stderr) == (5, True)
    (tmp_path / "empty").mkdir()
    result = run("pack", tmp_path / "empty")
    assert (result.exit_code, "is a folder. Expected a file, or a folder that holds" in result.stderr) == (5, True)


@pytest.mark.parametrize("given", ["model", "snapshot", "repository"])
def test_a_cache_of_hugging_face_packs(tmp_path, given):
    repository = tmp_path / "models--me--net"
    made = with_external(tmp_path / "made", "model.onnx_data")
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    (snapshot / "onnx").mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name, blob in (("model.onnx", "c6edb9"), ("model.onnx_data", "b879fe")):
        (made.parent / name).rename(blobs / blob)
        (snapshot / "onnx" / name).symlink_to(f"../../../blobs/{blob}")
    path = {"model": snapshot / "onnx" / "model.onnx", "snapshot": snapshot, "repository": repository}[given]
    result = run("pack", path, "-o", tmp_path / "net.krimp")
    assert result.exit_code == 0, result.stderr
    assert run("unpack", tmp_path / "net.krimp", "--into", tmp_path / "new").exit_code == 0
    assert (tmp_path / "new" / "net.onnx").read_bytes() == (blobs / "c6edb9").read_bytes()
    assert (tmp_path / "new" / "model.onnx_data").read_bytes() == VALUES.tobytes()


def test_sharded_safetensors_in_a_cache_of_hugging_face_pack(tmp_path):
    index = sharded(tmp_path / "made")
    expected = files_of(index.parent)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    index.parent.rename(blobs)
    for name in expected:
        (blobs / name).rename(blobs / f"blob-{name[-30:]}{len(name)}")
        (snapshot / name).symlink_to(f"../../blobs/blob-{name[-30:]}{len(name)}")
    assert run("pack", tmp_path / "models--a--b").exit_code == 0
    assert run("unpack", tmp_path / "models--a--b.krimp", "--into", tmp_path / "new").exit_code == 0
    assert files_of(tmp_path / "new") == expected


def test_a_plain_network_is_inspected_as_it_is_stored(tmp_path):
    arrays = {"w": VALUES, "f": np.arange(-20, 20, dtype=np.float32).reshape(4, 10), "z": np.zeros(7, np.int64)}
    (tmp_path / "m.safetensors").write_bytes(save(arrays))
    facts = {fact.name: fact for fact in codec.inspect_file(tmp_path / "m.safetensors")}
    assert {name: (fact.dims, fact.elements) for name, fact in facts.items()} == {
        name: (array.shape, array.size) for name, array in arrays.items()
    }
    _, counts = np.unique(VALUES, return_counts=True)
    shares = counts / VALUES.size
    assert facts["w"].entropy_bits_per_weight == pytest.approx(-(shares * np.log2(shares)).sum())
    assert facts["w"].bits_per_weight == 8
    assert facts["w"].zeros == pytest.approx((VALUES == 0).mean())
    assert (facts["f"].zeros, facts["z"].zeros, facts["f"].bit_width) == (1 / 40, 1.0, 32)
    assert facts["f"].packed_bytes == facts["f"].original_bytes == 160
    shown = run("inspect", tmp_path / "m.safetensors")
    assert (shown.exit_code, "3 tensors, not packed" in shown.stdout) == (0, True)
