"""Look for checkpoints on which the reader crashes, hangs, takes memory that the file does not have, or runs something.

    .venv/bin/python scripts/fuzz_checkpoints.py                 10 minutes
    .venv/bin/python scripts/fuzz_checkpoints.py --minutes 60 --seed 7
    .venv/bin/python scripts/fuzz_checkpoints.py --replay build/fuzz/findings/checkpoint-3.pth

Files of every layout (zip archives and pickles of torch, safetensors; as MMEngine, DataParallel, averaging hooks and
whole modules write them) are mutated: bytes of the file, of the pickle inside an archive, and words of pickles put in.
Whatever comes is to be read, or refused with a CompressError within 10 s of processor time and 2 GiB. Findings are
kept in build/fuzz/findings, and the exit code is 1 if there are any.
"""

from __future__ import annotations

import io
import pickle
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save  # noqa: E402
from torch import nn  # noqa: E402

from compress.errors import CompressError  # noqa: E402
from detectors.weights.reading import read_file  # noqa: E402
from scripts import fuzz_loop  # noqa: E402
from scripts.fuzz_loop import mutated  # noqa: E402

SECONDS, MEMORY_GIB = 10, 2
# Words of pickles with a little behind them: globals, calls, memo, texts and numbers that state their length.
WORDS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"R", b"\x81", b"\x92", b"b", b"(", b")", b"]", b"}", b"\x8f", b"0", b"1",
    b"2",
    b"h\x00", b"j\xff\xff\xff\x7f", b"q\x00", b"r\xff\xff\xff\x7f", b"\x94", b"\x93", b"Q", b"Pabc\n", b"N", b"\x88",
    b"K\x01",
    b"M\xff\xff", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\x7f" * 8, b"\x8b\xff\xff\xff\x7f", b"G" + b"\x7f" * 8,
    b"X\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 8, b"\x96" + b"\x7f" * 8, b"\x95" + b"\xff" * 8,
    b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"\x90", b"\x91", b"d", b"l", b"ia\nb\n", b"o", b".",
    b"\x82\x01",
    b"I01\n", b"L99999999999999999999L\n", b"F1e999\n", b"S'a'\n", b"V\\ud800\n", b"\x80\x05", b"\x97", b"\x98",
)  # fmt: skip


class _Buffer:
    """Stands for a class of another program, with a state of its own."""

    def __init__(self) -> None:
        self.history = np.arange(3.0)


def base_files() -> dict[str, bytes]:
    """Return a small file of every layout."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = net.state_dict()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9).state_dict()
    meta = {"epoch": 1, "mAP": np.float64(0.5)}
    mixed = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(2, 3).t(), "c": nn.Parameter(torch.ones(1))}
    contents = {
        "mmengine": {"meta": meta, "state_dict": state, "hub": _Buffer(), "optimizer": optimizer},
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "average": {"ema": {"module": state, "updates": 3}, "model": state},
        "half": {"net": {name: value.half() for name, value in state.items()}},
        "mixed": mixed,
        "module": net,
        "numpy": {"model": {"w": np.ones((2, 3), np.float32)}},
    }  # fmt: skip
    files = {}
    for name, content in contents.items():
        for zipped in (True, False):
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=zipped)
            files[f"{name}.{'zip' if zipped else 'old'}.pth"] = out.getvalue()
    files["plain.pkl"] = pickle.dumps(contents["numpy"])
    files["a.safetensors"] = save({"a": torch.randn(3, 3), "b": torch.ones(2, dtype=torch.float16)})
    return files


def inputs(chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield (suffix, bytes) of files without end."""
    files = base_files()
    names = sorted(files)
    while True:
        name = chance.choice(names)
        data = files[name]
        has_part = ".zip." in name and chance.random() < 0.8
        data = _with_mutated_part(data, chance) if has_part else mutated(data, WORDS, chance)
        yield Path(name).suffix if chance.random() < 0.95 else ".safetensors", data


def _with_mutated_part(data: bytes, chance: random.Random) -> bytes:
    """Return an archive whose checksums are right and one of whose records is not, mostly the pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as other:
        names = archive.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        chosen = pickled if chance.random() < 0.9 else chance.choice(names)
        for name in names:
            content = archive.read(name)
            other.writestr(name, mutated(content, WORDS, chance) if name == chosen else content)
    return out.getvalue()


def check(path: Path) -> str:
    """Return 'read' or 'refused'; whatever else escapes is a finding."""
    try:
        state, meta = read_file(path)
    except CompressError:
        return "refused"
    for value in state.values():
        value.float().sum()
    str(meta)
    return "read"


if __name__ == "__main__":
    sys.exit(fuzz_loop.main("checkpoint", __doc__ or "", inputs, check, seconds=SECONDS, memory_gib=MEMORY_GIB))
