"""The command as a whole: a model file and pictures in, a small file with its proof out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress import codec
from compress.errors import DataError, StageError
from compress.machine import cpu_name
from compress.number_text import size_text
from compress.onnx_graph.short_names import shorten_names
from compress.outputs import Outputs, make_folder
from compress.pictures.decoding import Reading
from compress.progress import say, warn
from compress.runtime.latency import compare
from compress.shrink.given.opening import Opened, open_any
from compress.shrink.judge import Judge, make_judge, metadata_of
from compress.shrink.judge.properties import deploy_metadata, preprocessing_of, properties_of, value_range_of
from compress.shrink.limits import Limits, along_curve, knee, smallest_that_holds, smallest_within
from compress.shrink.network import Network
from compress.shrink.observe import Feed, session_of
from compress.shrink.pictures import Inputs, find_inputs, guessed_preprocessing
from compress.shrink.shrinking import Chosen, Made, Shrinker
from compress.shrink.target import DEFAULT, TARGETS, Target
from compress.shrink.telling import Told, document, text
from compress.shrink.view import input_picture

SPEED_RUNS = 30


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        model: ONNX file.
        data: folder of pictures, or of .npz archives with an array for each input.
        limits: size and loss.
        labels, label_format, head, classes, head_options, allow_code: see `make_judge`.
        preprocessing: name of a field of `Preprocessing` -> its value; what is not named is guessed.
        reading: how picture files are read; a value range of the model's own holds where none is said.
        pictures: that are learnt from, at most; as many others are judged.
        target: name of a kind of machine.
        weights_only: the network computes in float.
        threads: of ONNX Runtime for timing; 0: one per core.
    """

    model: Path
    data: Path
    limits: Limits = field(default_factory=Limits)
    labels: Path | None = None
    label_format: str | None = None
    head: str | None = None
    classes: Sequence[str] | None = None
    head_options: Mapping[str, Any] = field(default_factory=dict)
    allow_code: bool = False
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    pictures: int = 128
    target: str = DEFAULT
    weights_only: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Paths:
    """What the command leaves in its folder."""

    model: Path
    packed: Path
    report: Path
    document: Path
    picture: Path | None

    @classmethod
    def of(cls, model: Path, folder: Path, *, shows: bool) -> Paths:
        """Return the files for a model."""
        stem = model.stem
        return cls(
            folder / f"{stem}.small.onnx",
            folder / f"{stem}.krimp",
            folder / f"{stem}.shrink.md",
            folder / f"{stem}.shrink.json",
            folder / f"{stem}.input.png" if shows else None,
        )

    def all(self) -> list[Path]:
        """Return them."""
        found = [self.model, self.packed, self.report, self.document]
        return found if self.picture is None else [*found, self.picture]


def shrink(request: Request, folder: Path, outputs: Outputs) -> dict[str, Any]:
    """Make a small file of a model, prove it, and write it with its report; return the report as data.

    Raises:
        CodecError: the model is no ONNX file that ONNX Runtime loads, or its integers cannot be followed.
        DataError: there are no pictures, or the model does not take them.
        DetectorError: labels or a head do not fit the model.
        StageError: nothing holds the limits; what comes nearest is said, and nothing is written.
        CompressError: a file that would be written is somebody's.
    """
    started = time.monotonic()
    network, inputs = opened(request)
    given, form = network.given, network.form
    paths = Paths.of(request.model, folder, shows=inputs.preprocessing is not None)
    make_folder(folder, DataError)
    outputs.claim(paths.all())
    inputs = inputs.some(file for file in inputs.files if not outputs.left(file))  # pictures of its own
    if not inputs.files:
        raise DataError(f"{request.data}: nothing but what `krimp shrink` left there itself. Give pictures.")
    _refuse_inputs(paths.all(), [request.model, *inputs.files])
    learnt, judged = split(inputs.files, request.pictures)
    _try(given, inputs.some(learnt))
    if inputs.preprocessing is not None:
        say(f"pictures enter as: {inputs.preprocessing}")
    judge = judged_by(request, given, inputs.some(judged))
    say(f"judge: {judge.told}")
    target = TARGETS[request.target]
    with tempfile.TemporaryDirectory(prefix="krimp-shrink-") as scratch:
        properties = properties_of(request.model) | metadata_of(judge)
        shrinker = Shrinker(
            network.learning,
            inputs.some(learnt),
            judge,
            Path(scratch),
            lambda made: finished(made, properties)[0],
            target,
            request.threads,
        )
        if form is None:
            chosen = shrinker.choose_form(weights_only=request.weights_only, max_drop=request.limits.max_drop)
        else:
            chosen = shrinker.as_given(form)
        say(chosen.why)
        taken, curve = search(shrinker, chosen, request.limits, judge)
        model, names = finished(taken.model, properties)
        small = Path(scratch) / paths.model.name
        small.write_bytes(model.SerializeToString(deterministic=True))
        packed = Path(scratch) / paths.packed.name
        facts = codec.pack_file(small, packed)
        feed = next(iter(inputs.some(judged)()))
        check(given, taken.model, packed, small, feed)
        latency = _latency(given, model, feed, target, request.threads)
        told = Told(
            model=request.model,
            float_bytes=request.model.stat().st_size,
            small_bytes=small.stat().st_size,
            packed_bytes=facts.packed_bytes,
            packed_as_given_bytes=None if form is None else _packed_bytes(request.model, Path(scratch)),
            network=given,
            preprocessing=inputs.preprocessing,
            learnt=len(learnt),
            judge=judge,
            chosen=chosen,
            taken=taken,
            curve=curve,
            limits=request.limits,
            target=target,
            latency=latency,
            cpu=cpu_name(),
            threads=request.threads,
            seconds=time.monotonic() - started,
            names=names,
        )
        outputs.write(paths.model, small.read_bytes())
        outputs.write(paths.packed, packed.read_bytes())
    if paths.picture is not None:
        outputs.write(paths.picture, input_picture(inputs, judged[0]))
    found = document(told)
    outputs.write(paths.document, found.text)
    outputs.write(paths.report, text(told, paths.picture))
    return found.data | {"files": [str(path) for path in paths.all()]}


def opened(request: Request) -> tuple[Opened, Inputs]:
    """Return the network of a request, and what it is fed."""
    network = open_any(request.model)
    return network, _inputs(request, network.given)


def judged_by(request: Request, network: Network, judging: Inputs) -> Judge:
    """Return the judge that a request asks for."""
    return make_judge(
        network,
        judging,
        model_path=request.model,
        labels=request.labels,
        label_format=request.label_format,
        head=request.head,
        classes=request.classes,
        head_options=request.head_options,
        allow_code=request.allow_code,
    )


def split(files: Sequence[Path], most: int) -> tuple[list[Path], list[Path]]:
    """Return the pictures that are learnt from and those that are judged: every other one, at most so many of each.

    Neighbours in a folder are often alike, so both are spread over all of it.
    """
    if len(files) == 1:
        warn("one picture: what is learnt from it is judged by it, which proves little. Give some dozens.")
        return list(files), list(files)
    learnt, judged = files[::2], files[1::2]
    return _spread(learnt, most), _spread(judged, most)


def search(shrinker: Shrinker, chosen: Chosen, limits: Limits, judge: Judge) -> tuple[Made, list[Made]]:
    """Return the network inside the limits, or the knee of the curve, and all that were judged.

    Raises:
        StageError: nothing is inside.
    """

    def make(price: float) -> Made:
        return shrinker.at(chosen.form, price)

    if limits.packed_bytes is not None:
        try:
            made = [shrinker.to_bytes(chosen.form, limits.packed_bytes)]
        except StageError as error:
            raise UnreachableError(f"{error} Nothing was written.") from error
        if not limits.holds(made[0]):
            assert limits.max_drop is not None
            made = smallest_within([*along_curve(make, until=limits.max_drop), *made], make, limits.max_drop)
    else:
        made = along_curve(make, until=limits.max_drop)
        if limits.max_drop is not None:
            made = smallest_within(made, make, limits.max_drop)
        else:
            return knee(made), made
    if (taken := smallest_that_holds(made, limits)) is not None:
        return taken, made
    unit = "points" if judge.kind != "outputs" else "percent of the outputs"
    inside = smallest_that_holds(made, Limits(None, limits.max_drop))
    small = smallest_that_holds(made, Limits(limits.packed_bytes, None))
    near = [one for one in (inside, small if small is not inside else None) if one is not None]
    near = near or sorted(made, key=lambda one: one.loss)[:1]
    told = "; ".join(f"{size_text(one.packed_bytes)} with {one.verdict} lost" for one in near)
    raise UnreachableError(
        f"nothing holds {limits} ({unit}). Nearest: {told}. Nothing was written: ask for more bytes or "
        "allow more loss; training (`krimp run`) reaches what this cannot."
    )


class UnreachableError(StageError):
    """Nothing holds what was asked for."""

    exit_code = 1


def finished(made: onnx.ModelProto, properties: Mapping[str, str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the model as it is written, and short name -> name of what is in it.

    Args:
        made: it; unchanged.
        properties: metadata of the source, with what `krimp detect` needs on top.
    """
    model = onnx.ModelProto()
    model.CopyFrom(made)
    del model.graph.value_info[:], model.metadata_props[:]
    has_parts = any(one.type in (one.GRAPH, one.GRAPHS) for node in model.graph.node for one in node.attribute)
    names = {} if has_parts else shorten_names(model.graph)  # what a branch reads by name is not looked through
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.doc_string = "krimp", ""
    return model, names


def check(network: Network, made: onnx.ModelProto, packed: Path, small: Path, feed: Feed) -> None:
    """Prove that the packed file is the small one, and that this computes what was judged.

    Raises:
        StageError: it does not.
    """
    if codec.load(packed) != small.read_bytes():
        raise StageError(f"{packed.name} does not unpack to {small.name}: a fault of Krimp; please report it.")
    judged = session_of(made).run(network.outputs, feed)
    written = session_of(onnx.load(small)).run(network.outputs, feed)
    for name, one, other in zip(network.outputs, judged, written, strict=True):
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            raise StageError(
                f"output {name} of {small.name} is not what was judged: a fault of Krimp; please report it."
            )


def _packed_bytes(path: Path, folder: Path) -> int:
    """Return the size of a file packed as it is."""
    return codec.pack_file(path, folder / "given.krimp").packed_bytes


def _latency(
    network: Network, model: onnx.ModelProto, feed: Feed, target: Target, threads: int
) -> dict[str, Any] | None:
    if not target.is_here:
        return None
    sessions = {name: session_of(one, threads=threads) for name, one in (("float", network.model), ("small", model))}
    calls = {name: (lambda one=one: one.run(None, feed)) for name, one in sessions.items()}
    return compare(calls, warmup=3, runs=SPEED_RUNS)


def _inputs(request: Request, network: Network) -> Inputs:
    preprocessing = guessed_preprocessing(network)
    meta = deploy_metadata(properties_of(request.model), str(request.model))
    if preprocessing is not None and meta is not None:
        preprocessing = preprocessing_of(meta) or preprocessing
    if request.preprocessing:
        if preprocessing is None:
            raise DataError(
                f"{request.model}: its inputs are no picture, so --mean, --std, --scale, --bgr, --fit and --size say "
                "nothing. Leave them out and give .npz archives."
            )
        preprocessing = preprocessing.with_fields(request.preprocessing)
    reading = request.reading
    if reading.value_range is None and meta is not None:
        reading = replace(reading, value_range=value_range_of(meta, str(request.model)))
    return find_inputs(network, request.data, preprocessing, reading)


def _try(network: Network, inputs: Inputs) -> None:
    """Refuse inputs that the network does not take, and outputs that cannot be compared, before anything is learnt.

    Raises:
        DataError: it does not take the first one, or makes no numbers of it.
    """
    file = inputs.files[0]
    feed = inputs.one(file)
    try:
        outputs = session_of(network.model).run(network.outputs, feed)
    except Exception as error:  # of ONNX Runtime: its classes have no common base
        shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feed.items())
        why = " ".join(str(error).split())[:300]
        cure = "Name the size with --size HEIGHTxWIDTH, or give .npz archives of arrays as it takes them."
        raise DataError(
            f"{file}: the network does not take it as {shapes}: {why}."
            f" {'Give arrays as it takes them.' if inputs.preprocessing is None else cure}"
        ) from error
    for name, one in zip(network.outputs, outputs, strict=True):
        if not isinstance(one, np.ndarray) or one.dtype.kind not in "fiub":
            what = f"of {one.dtype}" if isinstance(one, np.ndarray) else "no tensor"
            raise DataError(f"{file}: output {name!r} is {what}: only tensors of numbers can be compared.")
    if not any(np.isfinite(one).any() for one in outputs):
        raise DataError(
            f"{file}: the network's outputs hold no finite number, so nothing can be compared. Look at the weights, "
            "and at how the input is made: --mean, --std, --scale."
        )


def _refuse_inputs(written: Sequence[Path], read: Sequence[Path]) -> None:
    """Refuse to write over what is read; --force does not help.

    Raises:
        DataError: a file would be both.
    """
    known = {path.resolve() for path in read}
    taken = [path for path in written if path.resolve() in known]
    if taken:
        raise DataError(f"{taken[0]}: is read, and would be written over. Choose another --out.")


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return list(files)
    return [files[number] for number in np.linspace(0, len(files) - 1, most).round().astype(int)]
