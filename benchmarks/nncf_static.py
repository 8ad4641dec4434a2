"""Quantize a float ONNX file with NNCF from the same images, in a virtual environment that has NNCF and no Krimp.

    python benchmarks/post_training.py RECIPE --set data.root=/data/hit-uav --prepare /tmp/peers
    python -m venv /tmp/nncf_env && /tmp/nncf_env/bin/pip install nncf==3.4.0 onnx onnxruntime
    /tmp/nncf_env/bin/python benchmarks/nncf_static.py /tmp/peers
    python benchmarks/post_training.py RECIPE --set data.root=/data/hit-uav --peer-file nncf=/tmp/peers/nncf.onnx

Reads `float.onnx` and `images.npy` of the folder, writes `nncf.onnx` there: `nncf.quantize` with its default settings,
all images, nothing else. NNCF's versions of numpy and onnx are not Krimp's, hence the environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Quantize; return the exit code."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 1
    import nncf  # not in Krimp's own environment
    import onnx

    folder = Path(sys.argv[1])
    target = folder / "nncf.onnx"
    if target.exists():
        print(f"error: {target}: exists. Remove it, or prepare another folder.", file=sys.stderr)
        return 1
    model = onnx.load(folder / "float.onnx")
    name = model.graph.input[0].name
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    feeds = nncf.Dataset(images, lambda image: {name: np.array(image[None])})
    onnx.save(nncf.quantize(model, feeds, subset_size=len(images)), target)
    print(f"{target}: nncf {nncf.__version__}, {len(images)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
