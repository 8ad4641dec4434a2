"""Which judge a network gets: labels if there are any, else what the float network finds, else its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.dataset import Scores
from compress.detector import Deploy
from compress.errors import DataError, DetectorError
from compress.plugins import find_judging, find_own_head, load_deploy
from compress.shrink.judge.boxes import Judging, Labels, Target
from compress.shrink.judge.by_boxes import BoxJudge, detections
from compress.shrink.judge.by_outputs import OutputJudge
from compress.shrink.judge.class_names import ClassNames
from compress.shrink.judge.properties import (
    as_properties,
    deploy_metadata,
    input_form,
    is_alike,
    preprocessing_of,
    properties_of,
    with_form,
)
from compress.shrink.judge.reference import Reference
from compress.shrink.judge.verdict import Judge
from compress.shrink.network import Network
from compress.shrink.pictures import Inputs

FLOOR = 0.05  # least score of what the float network is said to have found, and of what is compared with it
STEPS = (0.3, 0.25, 0.2, 0.15, 0.1, FLOOR)
ENOUGH = 50  # objects, for which the score goes down step by step
NOTHING = 0.01  # mAP50 of the float network below which labels, head or pictures do not belong together
LEAST = 10  # objects, with which agreement is measured at all


@dataclass(frozen=True)
class _Head:
    """How detections are made.

    Attributes:
        deploy: from outputs to detections.
        how: it was found.
        metadata: properties that name it.
    """

    deploy: Deploy
    how: str
    metadata: Mapping[str, str]


def make_judge(
    network: Network,
    judging: Inputs,
    *,
    model_path: Path,
    labels: Path | None = None,
    label_format: str | None = None,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    head_options: Mapping[str, Any] | None = None,
    allow_code: bool = False,
) -> Judge:
    """Return the best judge that there is.

    Args:
        network: float.
        judging: pictures that nothing is chosen by.
        model_path: the user's file, for its metadata.
        labels: of these pictures: COCO's JSON, a folder of YOLO's or DOTA's text files, or the YAML file of a data set.
        label_format: 'coco', 'yolo' or 'dota'; None looks at what lies there.
        head: a built-in head, `dcfl`, or code of one's own, 'package.module:NAME'; None guesses it.
        classes: names by label; 'car+truck' is class car, as which objects that are labelled truck count, too.
        head_options: thresholds and settings of the head, by name.
        allow_code: code of one's own may be imported.

    Raises:
        DataError: labels are wrong, or there are no pictures for them.
        DetectorError: labels or a head are named, and no detections can be made of the outputs.
    """
    boxes: Judging = find_judging()
    names = ClassNames.parse(classes or ())
    if not judging.files:
        raise DataError("nothing to judge by: no picture, expected at least one.")
    own = find_own_head(head, allow_code=allow_code) if head is not None and ":" in head else None
    if judging.preprocessing is None:
        if labels is not None or head is not None or head_options:
            raise DataError("labels and heads are of pictures, and the network is given arrays. Leave them out.")
        return OutputJudge(Reference.make(network, judging))
    opened = None
    if labels is not None:
        opened = boxes.labels(labels, judging.files, label_format, judging.reading)
    reference = Reference.make(network, judging)
    try:
        found = _head(model_path, reference, boxes, head, own, names, opened, head_options or {})
    except DataError:
        raise
    except DetectorError as error:
        if head is not None or head_options:
            raise DetectorError(f"--head{f' {head}' if head else ''}: {error}") from error
        if labels is None:
            return OutputJudge(reference, f"No detections are compared: {error}")
        raise DetectorError(
            f"{labels}: labels need a head that makes detections of the outputs, and none was guessed. {error} Name "
            f"one: --head {'|'.join(boxes.HEADS)}, or code of your own (module:NAME)."
        ) from error
    if opened is not None:
        return _by_labels(reference, found, boxes.target(opened, found.deploy, names.merged), opened)
    return _by_agreement(reference, found, boxes)


def _head(
    path: Path,
    reference: Reference,
    boxes: Judging,
    named: str | None,
    own: Any,
    names: ClassNames,
    labels: Labels | None,
    options: Mapping[str, Any],
) -> _Head:
    """Return how detections are made of the outputs; it was tried on the first picture.

    Raises:
        DetectorError: in no way.
    """
    preprocessing = reference.judging.preprocessing
    assert preprocessing is not None
    properties = properties_of(path)
    limits = reference.judging.reading.value_range
    deep = {} if limits is None else {"value_range": list(limits)}
    meta = deploy_metadata(properties, str(path)) if named is None else None
    if meta is not None:
        told = preprocessing_of(meta)
        meta = meta if told is not None and is_alike(told, preprocessing) else with_form(meta, preprocessing)
        names.check_against(meta["classes"])
        meta = {**boxes.with_options(meta, options), **deep}
        found = _Head(load_deploy(meta), f"The file's own metadata (plug-in {meta['plugin']}).", as_properties(meta))
    else:
        form = input_form(preprocessing)
        if form is None:
            raise DetectorError("the network takes gray pictures, which no head is made for.")
        choice = boxes.choose(
            reference.names,
            reference.sample(),
            named=named,
            own=own,
            input_size=preprocessing.size,
            form=form,
            classes=names.names,
            declared=() if labels is None else labels.names,
            ordered=labels is None or labels.are_ordered,
            properties=properties,
            options=options,
        )
        made = load_deploy(choice.meta) if choice.deploy is None else choice.deploy
        found = _Head(made, choice.how, {} if choice.deploy is not None else as_properties({**choice.meta, **deep}))
    detections(found.deploy, reference.outputs(0), reference.sizes[0], FLOOR)
    return found


def _by_labels(reference: Reference, head: _Head, target: Target, labels: Labels) -> BoxJudge:
    found = [
        detections(head.deploy, reference.outputs(number), reference.sizes[number]) for number in range(len(reference))
    ]
    own = target.score(found)
    if not own.map or own.map50 < NOTHING:
        raise DetectorError(
            f"{labels.path}: {reference.network.called} itself finds next to nothing of it: mAP50 {own.map50:.4f}, of "
            f"which nothing can be lost. {head.how} Check head, order of the classes and how pictures enter."
        )
    told = (
        f"mAP50-95 against {labels.path} ({labels.format}): {len(reference)} pictures, {target.num_objects} objects; "
        f"{reference.network.called} has {100 * own.map:.1f}{_between(own)}. {head.how} It cannot prove how the "
        f"network does on pictures of another kind.{f' {target.told}' if target.told else ''}"
    )
    return BoxJudge("labels", told, head.metadata, reference, head.deploy, target, own)


def _between(scores: Scores) -> str:
    """Return the interval of mAP50-95 for people, points."""
    if scores.map_interval is None:
        return ""
    low, high = scores.map_interval
    return f" ({100 * low:.1f} to {100 * high:.1f})"


def _by_agreement(reference: Reference, head: _Head, boxes: Judging) -> Judge:
    found = [
        detections(head.deploy, reference.outputs(number), reference.sizes[number], FLOOR)
        for number in range(len(reference))
    ]
    for score in STEPS:
        target = boxes.agreement(found, head.deploy.classes, score)
        if target.num_objects >= ENOUGH:
            break
    if target.num_objects < LEAST:
        return OutputJudge(
            reference,
            f"No detections are compared: {reference.network.called} finds {target.num_objects} objects above "
            f"{FLOOR:g} in {len(reference)} pictures, expected at least {LEAST}. {head.how}",
            head.metadata,
        )
    called = reference.network.called
    lowered = "" if score == STEPS[0] else f" (lowered from {STEPS[0]:g}: fewer than {ENOUGH} score more)"
    told = (
        f"mAP50-95 against what {called} itself finds above score {score:g}{lowered}: {len(reference)} "
        f"pictures, {target.num_objects} objects; {called} has 100 by definition. {head.how} It cannot prove "
        f"that the network is right: what {called} misses or invents counts as truth."
    )
    own = target.score(found)
    return BoxJudge("agreement", told, head.metadata, reference, head.deploy, target, own, FLOOR)
