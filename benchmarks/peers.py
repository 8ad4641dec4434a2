"""Compare Krimp with other tools: the same float file, images, evaluator and machine; one table and one record.

    make bench-peers ARGS="recipes/dcfl_mbv2_hituav.yaml --set data.root=/data/hit-uav"
    bash scripts/setup_peers.sh                        # or by hand: the other tools, into .venv-peers
    .venv-peers/bin/python benchmarks/peers.py RECIPE --set data.root=/data/hit-uav --work out/peers
    ... --only nncf krimp_7_bits     ... --again nncf     ... --with-training     ... --record FILE

Each method is given the float ONNX file and the same training images, runs in a child process of its own, and leaves a
file that ONNX Runtime opens. Bytes: as the method stores it, packed by Krimp, packed by xz -9; the least counts.
Latency: all files in turns, the processor's own count, one thread, on a real image. What a method left, what its file
found in the pictures and why it failed stay in `--work`: a second call goes on where the first was killed.
NNCodec and Deep Compression code weights alone, and their networks compute in float. onnxslim has no quantizer.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.accuracy import find, losses, score
from benchmarks.peer_job import MADE, Job, Made, prepared_inputs
from benchmarks.peer_methods import FLOAT, KRIMP, TRAINED, UNTRAINED, Method, shipped
from benchmarks.peer_table import reason_of, table, verdicts
from benchmarks.record_file import head, refuse_existing, write_record
from compress import codec
from compress.artifact import file_digest
from compress.dataset import METRICS, Scores
from compress.detector import Detector
from compress.errors import CompressError, StageError
from compress.machine import version_of
from compress.plugins import make_detector
from compress.progress import console, say
from compress.recipe.loading import load_recipe
from compress.runtime.latency import measure_interleaved, speedup_of, summarize
from compress.runtime.session import open_session
from compress.whole_file import write_whole

ROW = "row.json"
TOOLS = ("brevitas", "nncf", "nncodec", "nvidia-modelopt", "onnx", "onnxruntime", "onnxsim", "torch", "torch-pruning")
_TIMED_OUT = 124  # as of the program `timeout`


def methods_of(job: Job, *, with_training: bool) -> dict[str, Method]:
    """Return name -> method, the float file first."""
    return {**UNTRAINED, **shipped(job), **(TRAINED if with_training else {})}


def made_row(folder: Path, inputs: Mapping[str, str], command: Sequence[str], minutes: float) -> dict[str, Any]:
    """Return what a method left: the row of an earlier call if its inputs are the same, else made now.

    Args:
        folder: of the method; its name is the method's.
        inputs: file name -> sha256 of what it starts from.
        command: runs it in a child process and leaves `made.json` in the folder.
        minutes: that it may take.
    """
    kept = read_row(folder, inputs)
    if kept is not None:
        return kept
    say(f"{folder.name}: at work")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MADE).unlink(missing_ok=True)
    start, cpu = time.perf_counter(), _child_seconds()
    code, said = in_child(command, minutes * 60)
    spent = {"minutes": (time.perf_counter() - start) / 60, "cpu_minutes": (_child_seconds() - cpu) / 60}
    if code == 0 and (folder / MADE).is_file():
        made = Made.read(folder)
        row = {"note": made.note, "runs": made.runs, **sizes_of(folder, made), **spent}
    else:
        (folder / "said.txt").write_text(said, encoding="utf-8")
        row = {"failed": reason_of(said, code, minutes=minutes), **spent}
    write_whole(folder / ROW, json.dumps({"inputs": inputs, "row": row}, indent=1) + "\n")
    return row


def read_row(folder: Path, inputs: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the row that an earlier call left, None if there is none, it is damaged or of other inputs."""
    try:
        kept = json.loads((folder / ROW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    row = kept.get("row") if isinstance(kept, dict) and kept.get("inputs") == inputs else None
    if not isinstance(row, dict):
        return None
    return row if "failed" in row or (folder / str(row.get("runs"))).is_file() else None


def in_child(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a command; return its exit code, 124 if it took too long, and what it said on standard error."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        try:
            _, said = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
            return _TIMED_OUT, said
    return child.returncode, said


def sizes_of(folder: Path, made: Made) -> dict[str, int]:
    """Return a method's bytes: as it stores them, packed by Krimp, and packed by xz -9."""
    path = folder / made.runs
    content = path.read_bytes()
    if codec.is_packed(path):
        krimp = len(content)
    else:
        packed = folder / "packed.krimp"
        packed.unlink(missing_ok=True)
        krimp = codec.pack_file(path, packed).packed_bytes
    disk = len(content) if made.stored_bytes is None else made.stored_bytes
    return {"disk_bytes": disk, "krimp_bytes": krimp, "xz_bytes": len(lzma.compress(content, preset=9))}


def scored(row: dict[str, Any], detector: Detector, path: Path, split: str, work: Path) -> Scores | None:
    """Add map, map75 and map50 of a file on a split to its row and return the scores; what was found is kept.

    A file that ONNX Runtime cannot run makes the row one that failed, and gives None.
    """
    try:
        scores, _ = score(detector, split, find(str(path), detector, split, 1, work / "found"))
    except CompressError as error:
        row["failed"] = f"its file does not run: {error}"
        return None
    row.update({metric: getattr(scores, metric) for metric in METRICS})
    return scores


def with_latency(rows: dict[str, dict[str, Any]], job: Job, work: Path, runs: int) -> None:
    """Add how fast each file is beside the float one, in turns, by the processor's count, one thread."""
    feed = job.images[:1].astype("float32")
    sessions = {
        name: open_session(work / name / row["runs"], threads=1) for name, row in rows.items() if "failed" not in row
    }
    calls = {
        name: lambda session=session: session.run(None, {session.get_inputs()[0].name: feed})
        for name, session in sessions.items()
    }
    times = measure_interleaved(calls, warmup=3, runs=runs, clock_ns=time.process_time_ns)
    for name, taken in times.items():
        ratio = speedup_of(times[FLOAT], taken)
        rows[name] |= summarize(taken) | {"speedup": ratio.pop("speedup_p50")} | ratio


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make, score and time everything; return the record."""
    recipe = load_recipe(options.recipe, options.overrides)
    detector = make_detector(recipe.detector, recipe.data)
    inputs = prepared_inputs(detector, options.work, options.images)
    job = Job(detector, inputs, options.work)
    methods = methods_of(job, with_training=options.with_training)
    wanted = [name for name in methods if not options.only or name in (FLOAT, *options.only)]
    if unknown := sorted({*(options.only or ()), *options.again} - set(methods)):
        raise StageError(f"{', '.join(unknown)}: no such method. There are {', '.join(methods)}.")
    for name in options.again:
        (options.work / name / ROW).unlink(missing_ok=True)
    digests = {path.name: file_digest(path) for path in sorted(inputs.iterdir())}
    rows: dict[str, dict[str, Any]] = {}
    reference: Scores | None = None
    for name in wanted:
        command = [sys.executable, str(Path(__file__).resolve()), *_same_words(options), "--make", name]
        row = dict(made_row(options.work / name, digests, command, options.minutes))
        scores = None
        if "failed" not in row:
            scores = scored(row, detector, options.work / name / row["runs"], options.split, options.work)
        if scores is not None and reference is not None:
            row.update(losses(reference, scores))
        reference = reference or scores
        rows[name] = row
        say(f"{name}: {row.get('failed') or 'map {map:.4f}, map50 {map50:.4f}'.format(**row)}")
    with_latency(rows, job, options.work, options.runs)
    print(table(rows))
    found = verdicts(rows, KRIMP, FLOAT)
    print("\n".join(found))
    settings = {"recipe": recipe.name, "split": options.split, "calibration_images": options.images}
    settings |= {"threads": 1, "runs": options.runs, "clock": "of the process", "load": list(os.getloadavg())}
    versions = {name: version_of(name) for name in TOOLS}
    return head("peers") | settings | {"tools": versions, "rows": rows, "verdicts": found}


def make(options: argparse.Namespace) -> None:
    """Run one method and leave `made.json`; what it raises ends this process, and its last line is the reason."""
    recipe = load_recipe(options.recipe, options.overrides)
    detector = make_detector(recipe.detector, recipe.data)
    job = Job(detector, prepared_inputs(detector, options.work, options.images), options.work / options.make)
    job.folder.mkdir(parents=True, exist_ok=True)
    method = methods_of(job, with_training=True)[options.make]
    method(job).write(job.folder)


def _same_words(options: argparse.Namespace) -> list[str]:
    """Return the words of the command line that a child needs as well."""
    words = [str(options.recipe), "--work", str(options.work), "--images", str(options.images)]
    return words + [word for override in options.overrides for word in ("--set", override)]


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("recipe", type=Path, help="its detector, checkpoint and data are used, not its stages")
    made.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    made.add_argument("--work", type=Path, default=Path("out/peers"), help="folder that keeps what is done")
    made.add_argument("--split", default="val", help="that is scored (default: val)")
    made.add_argument("--images", type=int, default=64, help="training images that calibrate (default: 64)")
    made.add_argument("--runs", type=int, default=30, help="rounds that are timed (default: 30)")
    made.add_argument("--minutes", type=float, default=60, help="that one method may take (default: 60)")
    made.add_argument("--only", nargs="+", metavar="NAME", help="these methods, and the float file")
    made.add_argument("--again", nargs="+", default=[], metavar="NAME", help="make these again")
    made.add_argument("--with-training", action="store_true", help="the methods that train, too: an hour and more")
    made.add_argument("--record", type=Path, help="file to write; it must not exist")
    made.add_argument("--make", help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    options = parser().parse_args(arguments)
    if options.make is not None:
        make(options)
        return 0
    with console():
        try:
            refuse_existing(options.record)
            write_record(options.record, measure(options))
        except CompressError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
