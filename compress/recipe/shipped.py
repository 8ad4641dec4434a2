"""The recipes that come with Krimp: in a checkout the folder `recipes/`, in an installed wheel files of the package."""

from __future__ import annotations

from pathlib import Path

import compress


def shipped_recipes() -> Path:
    """Return the folder of the shipped recipes and their schema."""
    return (Path(compress.__file__).parent / "recipes").resolve()


def find_recipe(path: Path) -> Path:
    """Return the file that a recipe argument means.

    Args:
        path: a file; or, where there is no such file, a shipped recipe: 'demo', 'demo.yaml' or 'recipes/demo.yaml'.

    Returns:
        The file, or the path as it came if nothing has that name.
    """
    if path.exists() or path.parent.as_posix() not in (".", "recipes"):
        return path
    shipped = shipped_recipes() / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped if shipped.is_file() else path
