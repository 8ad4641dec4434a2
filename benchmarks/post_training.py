"""Quantize a trained detector without training, and compare with ONNX Runtime's own static quantization.

    python benchmarks/post_training.py recipes/dcfl_mbv2_hituav.yaml --set data.root=/path/to/hit-uav
    python benchmarks/post_training.py RECIPE --split test --record benchmarks/records/DATE_post_training.json
    python benchmarks/post_training.py RECIPE --prepare /tmp/peers      # float.onnx and images.npy for other tools
    python benchmarks/post_training.py RECIPE --peer-file nncf=/tmp/peers/nncf.onnx

Every file is made from the same float model and the same training images, and every one runs in ONNX Runtime on the
same images of the split: accuracy, its paired difference, and how far each raw output is from the float one. A file
that another tool made of what `--prepare` wrote is scored beside them; `benchmarks/peers.py` does that for many tools.
Choose by val; read test once.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from torch import Tensor, nn

from benchmarks.record_file import head, refuse_existing, write_record
from compress.artifact import file_digest
from compress.dataset import METRICS, Scores
from compress.detector import Detector, Forward
from compress.errors import CompressError, StageError
from compress.export import export_onnx
from compress.metrics.paired import loss_interval
from compress.plugins import make_detector
from compress.progress import console, say
from compress.quantization import QuantizationSettings, quantize
from compress.quantization.calibration import first_images
from compress.quantization.post_training import post_train
from compress.quantization.settings import ONLY_RANGES, PostTraining
from compress.recipe.loading import load_recipe
from compress.runtime.forwards import onnx_forward
from compress.scoring import evaluate
from compress.whole_file import whole_file

PEER = "onnxruntime_static"
OURS: dict[str, tuple[QuantizationSettings, PostTraining]] = {
    "krimp_8_bits_vnni": (QuantizationSettings(weight_bit_width=8, target="vnni"), PostTraining()),
    "krimp_7_bits": (QuantizationSettings(weight_bit_width=7), PostTraining()),
    "krimp_6_bits": (QuantizationSettings(weight_bit_width=6), PostTraining()),
    "ranges_only_8_bits_vnni": (QuantizationSettings(weight_bit_width=8, target="vnni"), ONLY_RANGES),
    "ranges_only_7_bits": (QuantizationSettings(weight_bit_width=7), ONLY_RANGES),
    "ranges_only_6_bits": (QuantizationSettings(weight_bit_width=6), ONLY_RANGES),
}


def load_float(detector: Detector) -> nn.Module:
    """Return the network of the recipe's checkpoint, for inference.

    Raises:
        StageError: the recipe names no checkpoint.
    """
    checkpoint = detector.checkpoint_path()
    if checkpoint is None:
        raise StageError("the recipe names no checkpoint, so there is nothing to quantize. Set detector.checkpoint.")
    model = detector.build()
    detector.load(model, checkpoint)
    return model.eval()


def calibration_images(detector: Detector, images: int, skip: int) -> list[Tensor]:
    """Return training images, each (1, 3, H, W), normalized; the first `skip` are passed over."""
    return [batch.clone() for batch in islice(first_images(detector, "train", skip + images, seed=0), skip, None)]


def prepare(detector: Detector, folder: Path, images: int, skip: int) -> None:
    """Write what another tool needs to quantize the same: `float.onnx` and `images.npy`, (n, 3, H, W) float32.

    Raises:
        StageError: a file of that name is there.
    """
    for name in ("float.onnx", "images.npy"):
        if (folder / name).exists():
            raise StageError(f"{folder / name}: exists. Name an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(load_float(detector), folder / "float.onnx", detector=detector)
    with whole_file(folder / "images.npy") as file:
        np.save(file, np.concatenate([batch.numpy() for batch in calibration_images(detector, images, skip)]))


def make_files(detector: Detector, folder: Path, batches: Sequence[Tensor], names: Sequence[str]) -> dict[str, Path]:
    """Write the float file, ONNX Runtime's and ours; return name -> file."""
    model = load_float(detector)
    files = {"float": folder / "float.onnx", PEER: folder / f"{PEER}.onnx"}
    export_onnx(model, files["float"], detector=detector)
    quantize_with_onnxruntime(files["float"], files[PEER], [batch.numpy() for batch in batches])
    for name in names:
        settings, wanted = OURS[name]
        quantized = quantize(model, settings, detector)
        say(f"{name}: {post_train(quantized, lambda: batches, wanted)}")
        files[name] = folder / f"{name}.onnx"
        export_onnx(quantized, files[name], detector=detector)
    return files


def peer_files(words: Sequence[str]) -> dict[str, Path]:
    """Return name -> file of `NAME=FILE` words, files that other tools made.

    Raises:
        StageError: a word is of another form, a name is taken, or there is no such file.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise StageError(f"--peer-file {word}: expected NAME=FILE, for example nncf=/tmp/peers/nncf.onnx.")
        if name in found or name in (*OURS, "float", PEER):
            raise StageError(f"--peer-file {word}: the name {name!r} is taken. Choose another name.")
        if not Path(path).is_file():
            raise StageError(f"--peer-file {word}: no such file. `--prepare` writes what other tools start from.")
        found[name] = Path(path)
    return found


def quantize_with_onnxruntime(source: Path, target: Path, batches: list[np.ndarray]) -> None:
    """Quantize as ONNX Runtime's documentation says: Q/DQ, per channel, reduced range, least and greatest values."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(source).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {name: batch}

    logging.getLogger().setLevel(logging.ERROR)
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class Witness:
    """Runs a file and remembers how far its raw outputs are from the float ones."""

    def __init__(self, forward: Forward, truth: list[list[np.ndarray]] | None) -> None:
        self.forward = forward
        self.seen: list[list[np.ndarray]] = []
        self._truth: Iterator[list[np.ndarray]] | None = None if truth is None else iter(truth)
        self._sums: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the raw outputs of the file."""
        outputs = self.forward(images)
        if self._truth is None:
            self.seen.append([output.copy() for output in outputs])
        else:
            pairs = zip(outputs, next(self._truth), strict=True)
            squares = [(((a - b).astype(np.float64) ** 2).sum(), (b.astype(np.float64) ** 2).sum()) for a, b in pairs]
            self._sums.append(np.array(squares))
        return outputs

    def relative_errors(self) -> list[float]:
        """Return |found - float| / |float| of each output over all images, Euclidean."""
        sums = np.sum(self._sums, axis=0)
        return [float(error) for error in np.sqrt(sums[:, 0] / sums[:, 1])]


def measure(detector: Detector, files: dict[str, Path], split: str, threads: int) -> dict[str, Any]:
    """Score every file on a split and return the rows of the record."""
    rows: dict[str, Any] = {}
    scores: dict[str, Scores] = {}
    truth: list[list[np.ndarray]] | None = None
    for name, path in files.items():
        witness = Witness(onnx_forward(path, threads), truth)
        scores[name] = evaluate(detector, witness, split)
        rows[name] = {"onnx_bytes": path.stat().st_size, "sha256": file_digest(path)}
        rows[name] |= {metric: getattr(scores[name], metric) for metric in METRICS}
        if truth is None:
            truth = witness.seen
        else:
            rows[name]["relative_errors"] = dict(zip(detector.output_names(), witness.relative_errors(), strict=True))
        for other in ("float", PEER):
            if other in rows and other != name:
                rows[name][f"loss_to_{other}"] = _losses(scores[other], scores[name])
        say(_line(name, rows[name]))
    return rows


def _losses(reference: Scores, other: Scores) -> dict[str, Any]:
    """Return metric -> loss and its 95 % interval by the paired bootstrap."""
    losses = {}
    for metric in METRICS:
        interval = loss_interval(getattr(reference, f"{metric}_resampled"), getattr(other, f"{metric}_resampled"))
        losses[metric] = {"loss": getattr(reference, metric) - getattr(other, metric), "interval": interval}
    return losses


def _line(name: str, row: dict[str, Any]) -> str:
    accuracy = " ".join(f"{metric} {row[metric]:.4f}" for metric in METRICS)
    errors = " ".join(f"{error:.3f}" for error in row.get("relative_errors", {}).values())
    return f"{name:24} {accuracy}  {errors}"


@console()
def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="its detector, checkpoint and data are used, not its stages")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a field")
    parser.add_argument("--split", default="val", help="split to score on (default: val)")
    parser.add_argument("--images", type=int, default=64, help="training images that calibrate (default: 64)")
    parser.add_argument("--skip", type=int, default=0, help="so many of the first training images (default: 0)")
    parser.add_argument("--only", nargs="*", choices=list(OURS), default=list(OURS), help="of ours, make only these")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime (default: its own choice)")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write float.onnx and images.npy and stop")
    parser.add_argument("--peer-file", action="append", default=[], metavar="NAME=FILE", help="score this file too")
    parser.add_argument("--record", type=Path, help="file to write; it must not exist")
    options = parser.parse_args()
    try:
        refuse_existing(options.record)
        peers = peer_files(options.peer_file)
        recipe = load_recipe(options.recipe, options.set)
        detector = make_detector(recipe.detector, recipe.data)
        if options.prepare is not None:
            prepare(detector, options.prepare, options.images, options.skip)
            return 0
        with tempfile.TemporaryDirectory(prefix="krimp-post-training-") as folder:
            batches = calibration_images(detector, options.images, options.skip)
            files = make_files(detector, Path(folder), batches, options.only) | peers
            rows = measure(detector, files, options.split, options.threads)
        settings = {"recipe": options.recipe.name, "split": options.split, "peer_files": sorted(peers)}
        settings |= {"calibration_images": options.images, "skipped_images": options.skip}
        write_record(options.record, head("post_training") | settings | {"rows": rows})
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
