"""Names of layers: which layer a name belongs to, and names that a recipe gives and that fit none, with the nearest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase


def unknown_names(
    where: str, wanted: Iterable[str], names: Collection[str], *, what: str = "module", patterns: bool = False
) -> str | None:
    """Return what is wrong with names of layers, None if each is one.

    Args:
        where: the field that gives them.
        wanted: names, or shell patterns ('head.*').
        names: of the layers that are there.
        what: a word for these layers.
        patterns: patterns are understood; one that matches nothing is wrong.

    >>> unknown_names("skip", ["bdy"], ["stem", "body"])
    "skip: no module is called 'bdy'. Did you mean 'body'?"
    """
    wrong = [
        name for name in wanted if not (any(fnmatchcase(known, name) for known in names) if patterns else name in names)
    ]
    told = [f"no {what} is called {name!r}.{_near(name, names, patterns)}" for name in wrong]
    return f"{where}: {'; '.join(told)}" if told else None


def _near(wanted: str, names: Collection[str], patterns: bool) -> str:
    """Return ' Did you mean ...?' with the nearest name, or pattern of what is inside a module; else some names."""
    inside = {f"{known[:end]}.*" for known in names for end, letter in enumerate(known) if letter == "."}
    if patterns and f"{wanted}.*" in inside:
        return f" Did you mean '{wanted}.*', what is in it?"
    own = [name for name in names if name]
    valid = (sorted(inside) or own) if patterns and "*" in wanted else own
    if near := get_close_matches(wanted, valid, n=1, cutoff=0.55):
        return f" Did you mean {near[0]!r}?"
    some = [repr(name) for name in valid[:3]]
    return f" There are {', '.join(some)}{', ...' if len(valid) > 3 else ''}." if some else " There is none."


def layer_of(name: str, layers: Sequence[str]) -> str:
    """Return the layer that a constant or node of a file belongs to, the longest name that it begins with, or ''.

    >>> layer_of("head.cls.weight_scale", ["head", "head.cls"])
    'head.cls'
    """
    fitting = [layer for layer in layers if name == layer or name.startswith((f"{layer}.", f"{layer}_", f"{layer}/"))]
    return max(fitting, key=len, default="")


def layers_of(names: Iterable[str]) -> list[str]:
    """Return the layers that tensors of these full names belong to: those that have weights.

    >>> layers_of(["neck.conv.weight", "neck.conv.weight_scale", "neck.conv.bias"])
    ['neck.conv']
    """
    return [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
