"""`krimp shrink` beside other tools on the same file, pictures and judge; nothing is trained.

    python benchmarks/shrink.py FastestDet.onnx --data pictures --fit stretch --bgr [--record FILE]
    python benchmarks/shrink.py dcfl.onnx --data val/images --labels val/labelTxt --classes person,car,bicycle ...

The tools: ONNX Runtime `quantize_static` as its documentation says (pre-processed, Q/DQ, per channel, uint8 between
layers, MinMax; 7-bit weights as CPUs without VNNI need, and 8),
and NNCF where it is installed (`scripts/setup_peers.sh`). All learn from the pictures that `krimp shrink` learns from
and are judged by its judge on the others. Krimp is asked for three quarters of the bytes that each of them takes with
xz. Times are of one image and one thread, in turns, the processor's own count.
"""

from __future__ import annotations

import argparse
import lzma
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.record_file import head, refuse_existing, write_record
from compress.cli.ending import run_command
from compress.number_text import size_text
from compress.progress import say, warn
from compress.shrink.files import Request, judged_by, opened, split
from compress.shrink.limits import Limits
from compress.shrink.network import Network
from compress.shrink.pictures import Inputs
from compress.shrink.shrinking import Shrinker
from compress.shrink.target import TARGETS

SHARE = 0.75  # of a peer's bytes


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: Inputs) -> None:
        self._feeds = iter(inputs())

    def get_next(self) -> Any:
        return next(self._feeds, None)


def onnxruntime_static(network: Network, inputs: Inputs, folder: Path, *, reduce_range: bool) -> onnx.ModelProto:
    """Return what ONNX Runtime's own quantizer makes of a network."""
    source, prepared, target = (folder / f"{name}.onnx" for name in ("float", "prepared", "static"))
    onnx.save(network.model, source)
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    # Its default, int8 between layers, has no fast kernels on x86.
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    form = {"quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": reduce_range}
    quantize_static(prepared, target, _Reader(inputs), **types, **form)
    return onnx.load(target)


def nncf_quantized(network: Network, inputs: Inputs, folder: Path) -> onnx.ModelProto:
    """Return what NNCF makes of a network."""
    import nncf

    del folder
    made: onnx.ModelProto = nncf.quantize(network.model, nncf.Dataset(list(inputs())), subset_size=len(inputs.files))
    return made


PEERS: dict[str, Callable[[Network, Inputs, Path], onnx.ModelProto]] = {
    "onnxruntime static, 7 bits": lambda *given: onnxruntime_static(*given, reduce_range=True),
    "onnxruntime static, 8 bits": lambda *given: onnxruntime_static(*given, reduce_range=False),
    "nncf": nncf_quantized,
}


def measure(request: Request) -> dict[str, Any]:
    """Return the rows of all tools."""
    whole, inputs = opened(request)
    network = whole.given
    learnt, judged = split(inputs.files, request.pictures)
    judge = judged_by(request, network, inputs.some(judged))
    say(judge.told)
    rows: dict[str, dict[str, Any]] = {}
    models = {"float": network.model}
    with tempfile.TemporaryDirectory(prefix="krimp-peers-") as scratch:
        folder = Path(scratch)
        target = TARGETS[request.target]
        shrinker = Shrinker(network, inputs.some(learnt), judge, folder, lambda made: made, target, 1)

        def row(name: str, model: onnx.ModelProto, **more: Any) -> None:
            data = model.SerializeToString(deterministic=True)
            verdict = judge(model)
            models[name] = model
            rows[name] = {
                "bytes": len(data),
                "xz_bytes": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
                "packed_bytes": shrinker.packed_bytes(model),
                "loss": verdict.loss,
                "low": verdict.low,
                "high": verdict.high,
                "relative_errors": verdict.relative_errors,
            } | more
            smallest = min(rows[name][key] for key in ("xz_bytes", "packed_bytes"))
            say(f"{name}: {size_text(smallest)}, {verdict} lost")

        row("float", network.model)
        for name, make in PEERS.items():
            try:
                row(name, make(network, inputs.some(learnt), folder))
            except ImportError as error:
                warn(f"{name}: not run, {error}")
        chosen = shrinker.choose_form(weights_only=False, max_drop=request.limits.max_drop)
        say(chosen.why)
        for name in [name for name in PEERS if name in rows]:
            wanted = int(SHARE * rows[name]["xz_bytes"])
            row(f"krimp, {SHARE:.0%} of {name}", shrinker.to_bytes(chosen.form, wanted).model, form=chosen.why)
    times = shrinker.fastest(models)
    for name, milliseconds in times.items():
        rows[name] |= {"latency_ms_min": milliseconds, "times_as_fast": times["float"] / milliseconds}
        say(f"{name}: {times['float'] / milliseconds:.2f} times as fast")
    return head("shrink") | {
        "model": request.model.name,
        "judge": {"kind": judge.kind, "told": judge.told},
        "pictures": {"learnt": len(learnt), "judged": len(judged)},
        "preprocessing": str(inputs.preprocessing),
        "rows": rows,
    }


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="Folder of pictures.")
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--head")
    parser.add_argument("--classes", help="Names, a comma between.")
    parser.add_argument("--fit", choices=("letterbox", "stretch", "pad"))
    parser.add_argument("--size", help="HEIGHTxWIDTH.")
    parser.add_argument("--mean", help="Numbers, a comma between.")
    parser.add_argument("--std", help="Numbers, a comma between.")
    parser.add_argument("--bgr", action="store_true", default=None)
    parser.add_argument("--max-drop", type=float)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--record", type=Path, help="File to write the record to.")
    options = parser.parse_args()

    def numbers(text: str | None) -> tuple[float, ...] | None:
        return None if text is None else tuple(float(one) for one in text.split(","))

    def work() -> None:
        refuse_existing(options.record)
        size = None if options.size is None else tuple(int(side) for side in options.size.split("x"))
        given = {"fit": options.fit, "size": size, "mean": numbers(options.mean), "std": numbers(options.std)}
        given["bgr"] = options.bgr
        request = Request(
            options.model,
            options.data,
            Limits(None, options.max_drop),
            labels=options.labels,
            head=options.head,
            classes=None if options.classes is None else options.classes.split(","),
            preprocessing={name: value for name, value in given.items() if value is not None},
            pictures=options.pictures,
        )
        write_record(options.record, measure(request))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
