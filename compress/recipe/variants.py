"""Recipes without copies: `base:` names the recipe that a file changes, `defaults:` what its stages have in common."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from compress import stages as stage_table
from compress.errors import RecipeError, suggest
from compress.recipe.version import lift_training, own_names
from compress.recipe.yaml_reader import MOST_BYTES, parse_yaml, too_large
from compress.recipe.yaml_source import DataPath, Document, Problem, walk

MOST_BASES = 8  # one upon the other
MOST_STAGES = 100
MOST_STAGE_FIELDS = 100  # of one stage, and of all `defaults`; the longest stage has 20


def read_recipe(path: Path, derived: tuple[Path, ...] = ()) -> Document:
    """Read a recipe and what it is based on, the base's fields first, as one document.

    Args:
        path: YAML file. Its `base` is a file, relative to its own folder.
        derived: files that are based on this one, to notice a circle.

    Raises:
        RecipeError: a file is missing or not YAML, or the bases go round in a circle.
    """
    document = parse_yaml(recipe_text(path), str(path))
    _check_counts(document)
    lift_training(document)
    if not isinstance(document.data, dict) or "base" not in document.data:
        return document
    name, place = document.data.pop("base"), document.value_place(("base",))
    if not isinstance(name, str):
        raise RecipeError(f"{place}: base: {name!r}: expected the path of a recipe, relative to this file.")
    base = path.parent / name
    if len(derived) >= MOST_BASES:
        raise RecipeError(f"{place}: base: more than {MOST_BASES} recipes are based on each other. Put them together.")
    if _is_something_else(base):  # a pipe would be waited for
        raise RecipeError(f"{place}: base: {name}: a folder, device or pipe, expected a recipe. Name a file.")
    if base.resolve() in [file.resolve() for file in (*derived, path)]:
        raise RecipeError(
            f"{place}: base: {name}: the recipes are based on each other in a circle. Leave one `base` out."
        )
    try:
        below = read_recipe(base, (*derived, path))
    except RecipeError as error:
        raise error if _is_file(base) else RecipeError(f"{place}: base: {error}") from error
    return document if not isinstance(below.data, dict) else overlaid(below, document)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, say
        return False


def _is_something_else(path: Path) -> bool:
    """Return whether there is something that is no file: a folder, a device, a pipe."""
    try:
        return path.exists() and not path.is_file()
    except OSError:
        return False


def _check_counts(document: Document) -> None:
    """Refuse more stages, or more fields of one, than any recipe has: they are compared with each other below.

    Raises:
        RecipeError: with the place of what is too long.
    """
    data = document.data if isinstance(document.data, dict) else {}
    stages = data.get("stages")
    entries = stages if isinstance(stages, list) else list(stages.values()) if isinstance(stages, dict) else []
    counts: dict[DataPath, tuple[int, int, str]] = {("stages",): (len(entries), MOST_STAGES, "stages")}
    for index, entry in enumerate(entries[:MOST_STAGES]):
        path: DataPath = ("stages", index if isinstance(stages, list) else list(stages or ())[index])
        counts[path] = (len(entry) if isinstance(entry, dict) else 0, MOST_STAGE_FIELDS, "fields of a stage")
    counts["defaults",] = (sum(1 for _ in walk(data.get("defaults"))), MOST_STAGE_FIELDS, "defaults")
    for path, (count, most, what) in counts.items():
        if count > most:
            text = f"{count:,} {what}, expected at most {most}. Leave some out."
            raise RecipeError(str(Problem(document.value_place(path), path, text)))


def recipe_text(path: Path) -> str:
    """Return the text of a file that is said to be a recipe; no more is read than a recipe may have.

    Raises:
        RecipeError: there is no such file, or it is no text, or too large.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise RecipeError(too_large(str(path)))
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        near = suggest(path.name, beside) if beside else ""
        raise RecipeError(f"{path}: there is no such file.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}.") from error


def overlaid(base: Document, variant: Document) -> Document:
    """Return a recipe with the fields of another put over its own.

    Mappings are merged, everything else is replaced. `stages` as a list replaces the base's list; as a mapping it
    changes the stages that it names by label, and null takes a stage out.

    Args:
        base: the recipe below; left as it is.
        variant: what is put over it; mistakes in it are added to the problems of the result.
    """
    result = copy.deepcopy(base)
    result.source = variant.source
    result.problems += variant.problems
    result.values[()] = variant.value_place(())
    changes = variant.data.get("stages")
    if isinstance(changes, dict) and isinstance(base.data.get("stages"), list):
        _overlay(result, (), variant, (), without=("stages",))
        _change_stages(result, variant, changes)
    else:
        _overlay(result, (), variant, ())
    return result


def _overlay(
    result: Document, at: DataPath, variant: Document, path: DataPath, *, without: tuple[str, ...] = ()
) -> None:
    """Put the mapping at a path of the variant over the one at a path of the result."""
    target, source = result.at(at), variant.at(path)
    for key, value in source.items():
        if key in without:
            continue
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _overlay(result, (*at, key), variant, (*path, key))
        else:
            target[key] = copy.deepcopy(value)
            result.adopt((*at, key), variant, (*path, key))


def _change_stages(result: Document, variant: Document, changes: dict[str, Any]) -> None:
    entries: list[Any] = result.data["stages"]
    labels = [str(entry.get("name") or entry.get("stage")) if isinstance(entry, dict) else "" for entry in entries]
    gone: set[int] = set()
    for label, change in changes.items():
        path: DataPath = ("stages", label)
        if labels.count(label) != 1:
            what = suggest(label, [name for name in labels if name]) if label not in labels else " Two stages have it."
            text = f"the base has no stage named {label!r}.{what}" if label not in labels else f"{label!r}:{what}"
            result.problems.append(Problem(variant.key_place(path), path, text))
        elif change is None:
            gone.add(labels.index(label))
        elif isinstance(change, dict):
            _overlay(result, ("stages", labels.index(label)), variant, path)
        else:
            text = f"{change!r}: expected the fields to change, or null to take the stage out."
            result.problems.append(Problem(variant.value_place(path), path, text))
    if gone:
        _take_out(result, gone)


def _take_out(document: Document, gone: set[int]) -> None:
    """Remove stages by index; the places of the later ones move up."""
    entries = document.data["stages"]
    kept = [index for index in range(len(entries)) if index not in gone]
    document.data["stages"] = [entries[index] for index in kept]
    new = {old: number for number, old in enumerate(kept)}
    for places in (document.keys, document.values):
        moved = {path: places.pop(path) for path in list(places) if len(path) > 1 and path[0] == "stages"}
        places.update({("stages", new[p[1]], *p[2:]): place for p, place in moved.items() if p[1] in new})


def apply_defaults(document: Document) -> None:
    """Give every stage the fields of `defaults:` that it has and does not set itself; take `defaults` out.

    A field that no stage of the recipe has is a problem of the document.
    """
    if not isinstance(document.data, dict) or "defaults" not in document.data:
        return
    defaults = document.data["defaults"]
    if not isinstance(defaults, dict):
        text = f"{defaults!r}: expected fields of stages, such as training: {{batch_size: 2}}."
        document.problems.append(Problem(document.value_place(("defaults",)), ("defaults",), text))
        del document.data["defaults"]
        return
    stages = document.data.get("stages")
    entries = stages if isinstance(stages, list) else []
    for name in defaults:
        users = [index for index, entry in enumerate(entries) if name in _fields_of(entry)]
        if not users and entries:
            known = sorted({field for entry in entries for field in _fields_of(entry)} - {"stage", "name", "from"})
            text = f"no stage of this recipe has a field {name!r}.{suggest(name, known)}"
            document.problems.append(Problem(document.key_place(("defaults", name)), ("defaults", name), text))
        for index in users:
            _put_under(document, ("stages", index), ("defaults",), name)
    del document.data["defaults"]


def _fields_of(entry: Any) -> list[str]:
    stage = stage_table.STAGES.get(str(entry.get("stage"))) if isinstance(entry, dict) else None
    return [] if stage is None else own_names(stage)


def _put_under(document: Document, at: DataPath, source: DataPath, name: str) -> None:
    """Copy a default to where it is not set yet, deeper where both are mappings."""
    target, value = document.at(at), document.at((*source, name))
    here, there = (*at, name), (*source, name)
    if name not in target:
        target[name] = copy.deepcopy(value)
        document.adopt(here, document, there)
        document.shown[here] = there
    elif isinstance(value, dict) and isinstance(target[name], dict):
        for below in value:
            _put_under(document, here, there, below)
