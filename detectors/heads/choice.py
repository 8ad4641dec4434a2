"""The head of a stranger's network: named, guessed or of one's own code, as metadata and deployed part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compress.errors import DataError, DetectorError, suggest
from detectors.geometry.deployed import BoxDeploy
from detectors.heads.deploy import deploy_with
from detectors.heads.exporter import ExporterFacts
from detectors.heads.guessing import Guess, guess_head
from detectors.heads.head import Candidates, Head, HeadDecode, NoSettings, Request
from detectors.heads.metadata import InputForm, Thresholds, head_metadata, with_options
from detectors.heads.options import DCFL, Output
from detectors.heads.registry import HEADS

NAMES = (*HEADS, DCFL)
_CURE = "Name them in the order of the network's scores (--classes)."
_DCFL_THRESHOLDS = Thresholds(score=0.05, nms_iou=0.4, nms_pre=2000, max_detections=2000)  # its configuration's


@dataclass(frozen=True)
class Outputs:
    """What is known of a network's outputs.

    Attributes:
        names: of the graph, in order.
        sample: the outputs for some real pictures, the batch first.
        input_size: (height, width) of the network's input, px.
        form: how pictures enter.
        classes: names by label that somebody says; empty where nobody does.
        declared: names in the labels that the network is judged by; empty without.
        ordered: they are in the order of the network's scores.
        facts: what the exporter wrote into the file.
        options: thresholds and settings of the head that somebody says; see `with_options`.
    """

    names: Sequence[str]
    sample: Sequence[np.ndarray]
    input_size: tuple[int, int]
    form: InputForm
    classes: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    ordered: bool = True
    facts: ExporterFacts = field(default_factory=ExporterFacts)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A head that is taken.

    Attributes:
        meta: a `krimp.deploy`.
        how: how it was found, a sentence or two.
        deploy: the deployed part where the head is code of one's own, which no metadata can name; else None.
    """

    meta: Mapping[str, Any]
    how: str
    deploy: BoxDeploy | None = None


def choose_head(outputs: Outputs, named: str | None) -> Choice:
    """Return the head that is named, or the one that fits if nothing is.

    Raises:
        DetectorError: there is no such head, none fits or several do, or nobody knows its classes.
    """
    if named is not None and named not in NAMES:
        raise DetectorError(f"there is no head {named!r}.{suggest(named, NAMES)}")
    guess = _guess(outputs, named)
    if guess.name is None:
        raise DetectorError(guess.why)
    classes = _classes(guess, outputs)
    form, thresholds = outputs.form, Thresholds()
    if guess.name == DCFL:
        thresholds = _DCFL_THRESHOLDS
    meta = head_metadata(
        guess.name, guess.settings, classes=classes, input_size=outputs.input_size, output_names=outputs.names,
        form=form, thresholds=thresholds,
    )  # fmt: skip
    word = "guessed" if named is None else "named"
    meta = with_options(meta, outputs.options)
    return Choice(meta, f"Head {guess.name}, {word}: {guess.why[:1].lower()}{guess.why[1:]}")


def own_head(outputs: Outputs, name: str, head: Any) -> Choice:
    """Return a head of one's own code.

    Args:
        outputs: of the network.
        name: of the code, `module:NAME`.
        head: a `Head`, or a function of the signature of `HeadDecode`.

    Raises:
        DetectorError: it is neither, or nobody says what the classes are.
    """
    if not isinstance(head, Head) and not callable(head):
        raise DetectorError(f"head {name!r}: expected a function decode(raw, settings, request), or a Head.")
    classes = outputs.classes or outputs.facts.classes or (outputs.declared if outputs.ordered else ())
    if not classes:
        raise DataError(f"head {name!r}: nothing says which classes it finds. {_CURE}")
    meta = head_metadata(
        name, {}, classes=classes, input_size=outputs.input_size, output_names=outputs.names, form=outputs.form,
        thresholds=Thresholds(),
    )  # fmt: skip
    meta = with_options(meta, outputs.options)
    own = head if isinstance(head, Head) else Head(head, NoSettings, "", "", num_outputs=(1, 1000))
    guarded = Head(
        _Guarded(name, own.decode), own.settings, own.outputs, own.exported_by, rotated=own.rotated,
        suppressed=own.suppressed, num_outputs=own.num_outputs,
    )  # fmt: skip
    return Choice(meta, f"Head {name}, code of one's own.", deploy_with(meta, guarded))


@dataclass(frozen=True)
class _Guarded:
    """Code of others, whose mistakes are told as such."""

    name: str
    decode: HeadDecode

    def __call__(self, raw: Sequence[np.ndarray], settings: Any, request: Request) -> list[Candidates]:
        try:
            found = self.decode(raw, settings, request)
            good = all(isinstance(one, Candidates) for one in found) and len(found) == len(raw[0])
        except DetectorError:
            raise
        except Exception as error:
            raise DetectorError(f"head {self.name!r} fails: {type(error).__name__}: {error}.") from error
        if not good:
            raise DetectorError(
                f"head {self.name!r}: expected a list with one detectors.heads.head.Candidates for each of the "
                f"{len(raw[0])} pictures."
            )
        return found


def _guess(outputs: Outputs, named: str | None) -> Guess:
    shapes = [Output(name, array.shape) for name, array in zip(outputs.names, outputs.sample, strict=True)]

    def ask(num_classes: int | None) -> Guess:
        return guess_head(
            shapes, outputs.input_size, num_classes=num_classes, sample=outputs.sample, facts=outputs.facts, named=named
        )

    guess = ask(len(outputs.classes) or None)
    if guess.name is None and outputs.declared and not outputs.classes:  # of the labels, which may have others
        other = ask(len(outputs.declared))
        return other if other.name is not None else guess
    return guess


def _classes(guess: Guess, outputs: Outputs) -> tuple[str, ...]:
    """Return the names of a head's classes: those that somebody says, else what file or labels say, else numbers.

    Raises:
        DataError: their number is another one, or nothing says it.
    """
    count = guess.num_classes
    for names, whose in ((outputs.classes, "are named"), (outputs.facts.classes, "stand in the file")):
        if names and count not in (None, len(names)):
            raise DataError(f"head {guess.name} has {count} classes here, {len(names)} {whose}. {_CURE}")
        if names:
            return names
    declared = outputs.declared
    if not declared:
        if count is None:
            raise DetectorError(f"head {guess.name}: nothing says how many classes it has. {_CURE}")
        return tuple(f"class{label}" for label in range(count))
    if count not in (None, len(declared)):
        raise DataError(
            f"head {guess.name} has {count} classes here, the labels have {len(declared)}: {', '.join(declared)}. "
            f"{_CURE}"
        )
    if not outputs.ordered and len(declared) > 1:
        raise DataError(f"the labels have no order of their classes {', '.join(declared)}. {_CURE}")
    return declared
