"""Which built-in head fits a network, by the names and shapes of its outputs, and by values where these do not say.

Nothing is chosen where two heads fit: the answer then has no name and says which they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors.heads.evidence import refusal
from detectors.heads.exporter import ExporterFacts
from detectors.heads.options import DCFL, Option, Output, options_of


@dataclass(frozen=True)
class Guess:
    """What was found.

    Attributes:
        name: of the head, or None if none fits or several do.
        settings: of the head.
        num_classes: of the model; None where nothing says.
        why: what speaks for the head, or the reason why there is none; whole sentences.
        options: heads that fit; one, unless `name` is None.
    """

    name: str | None
    settings: Mapping[str, Any]
    num_classes: int | None
    why: str
    options: tuple[Option, ...] = field(default=())


def guess_head(
    outputs: Sequence[Output],
    input_size: tuple[int, int] | None,
    *,
    num_classes: int | None = None,
    sample: Sequence[np.ndarray] | None = None,
    facts: ExporterFacts | None = None,
    named: str | None = None,
) -> Guess:
    """Return the built-in head that a network's outputs fit.

    Args:
        outputs: of the graph, in order.
        input_size: (height, width) of the network's input, px; None where the graph does not fix it.
        num_classes: where known, e.g. from labels.
        sample: the outputs for real pictures, in order, the batch first; without them some heads cannot be told apart.
        facts: what the exporter wrote into the file.
        named: the head that somebody says it is, or `dcfl`: its settings are looked for, those of no other. Where
            neither shapes nor values say, it has its defaults.

    Returns:
        One head, or none and the reason.
    """
    facts = facts or ExporterFacts()
    if num_classes is None and facts.classes:
        num_classes = len(facts.classes)
    if sample is not None:
        outputs = [Output(output.name, (1, *array.shape[1:])) for output, array in zip(outputs, sample, strict=True)]
    shown = ", ".join(f"{output.name} ({', '.join(map(str, output.shape))})" for output in outputs)
    if named is None and facts.task not in (None, "detect", "obb"):
        return _none(f"The file says that its task is {facts.task!r}, which no built-in head decodes.")
    options = options_of(outputs, input_size, named)
    if named is not None and not options:
        return _by_its_defaults(named, num_classes, shown)
    if not options:
        size = "an input of any size" if input_size is None else f"an input of {input_size[0]}x{input_size[1]} px"
        return _none(f"No built-in head has the outputs {shown} for {size}.")
    notes = [(option, _objection(option, input_size, num_classes, sample, facts)) for option in options]
    fitting = tuple(option for option, objection in notes if objection is None)
    against = "".join(
        f" Not {option.head}{_setting_text(option)}: {objection}." for option, objection in notes if objection
    )
    if len(fitting) == 1:
        (option,) = fitting
        assumed = f" Assumed: {option.assumed}." if option.assumed else ""
        classes = option.num_classes if option.num_classes is not None else num_classes
        return Guess(option.head, option.settings, classes, f"{option.why}.{assumed}{against}", fitting)
    if not fitting:
        return _none(f"No built-in head fits the outputs {shown}.{against}")
    either = "; ".join(f"{option.head}{_setting_text(option)}: {option.why}" for option in fitting)
    more = "" if sample is not None else " The outputs for a picture may tell."
    many, cure = ("several heads", "Name one") if named is None else (f"{named} in several ways", "Name the classes")
    return Guess(None, {}, None, f"The outputs {shown} fit {many}. {either}.{against}{more} {cure}.", fitting)


def _by_its_defaults(named: str, num_classes: int | None, shown: str) -> Guess:
    """Return a head that somebody names though the shapes do not speak for it."""
    if named == DCFL:
        return _none(f"The outputs {shown} are no maps of scores and boxes of every level, which {named} has.")
    if num_classes is None:
        return _none(f"The shapes of the outputs {shown} do not say how many classes {named} has here. Name them.")
    return Guess(named, {}, num_classes, f"Named; the shapes of the outputs {shown} do not say more. Default settings.")


def _none(why: str) -> Guess:
    return Guess(None, {}, None, why)


def _setting_text(option: Option) -> str:
    parts = [f"{key} {value}" for key, value in option.settings.items()]
    classes = "" if option.num_classes is None else f"{option.num_classes} classes"
    text = ", ".join([*([classes] if classes else []), *parts])
    return f" ({text})" if text else ""


def _objection(
    option: Option,
    input_size: tuple[int, int] | None,
    num_classes: int | None,
    sample: Sequence[np.ndarray] | None,
    facts: ExporterFacts,
) -> str | None:
    """Return what speaks against an option, or None."""
    if num_classes is not None and option.num_classes not in (None, num_classes):
        return f"it would have {option.num_classes} classes, the model has {num_classes}"
    if facts.task is not None and (facts.task == "obb") != ("obb" in option.head):
        return f"the file says that its task is {facts.task!r}"
    if sample is None:
        return None
    return refusal(option.head, option.settings, sample, input_size, option.num_classes)
