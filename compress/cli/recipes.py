"""The commands `recipes` and `stages`: look at the shipped recipes, take one, bring an old one up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.artifact import file_digest
from compress.cli.options import ForceOption
from compress.errors import RecipeError, suggest
from compress.outputs import Outputs
from compress.recipe.shipped import shipped_recipes
from compress.whole_file import write_whole

app = typer.Typer(
    help="List the shipped recipes, copy one, write one out, upgrade one of your own.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes, with what each is for.

    \b
    krimp recipes                       # this list
    krimp recipes copy demo             # writes demo.yaml here
    krimp recipes expand goal.yaml      # every stage written out, to be edited
    krimp recipes upgrade old.yaml      # from format version 1 to 2, comments stay
    """  # noqa: D301 click ends no line after \b
    if context.invoked_subcommand is None:
        names = {path.stem: _title(path) for path in sorted(shipped_recipes().glob("*.yaml"))}
        width = max(map(len, names))
        print("\n".join(f"{name:<{width}}  {title}" for name, title in names.items()))


@app.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe, see `krimp recipes`.", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default: NAME.yaml here.")] = None,
    force: ForceOption = False,
) -> None:
    """Copy a shipped recipe, and the one it is based on beside it.

    \b
    krimp recipes copy dcfl_mbv2_hituav -o mine.yaml
    """  # noqa: D301 click ends no line after \b
    source = _shipped(name)
    target = out or Path(source.name)
    pairs = [(source, target), *((base, target.parent / base.name) for base in _bases(source))]
    outputs = Outputs("recipes copy", force=force, error=RecipeError)
    for original, copy in pairs:
        outputs.claim([copy], file_digest(original))
    for original, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        outputs.write(copy, original.read_bytes())
        print(copy)


@app.command("upgrade")
def upgrade_recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recipe of format version 1.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write; default: FILE itself, the old one as FILE.old.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Rewrite a recipe of format version 1 as one of version 2. Comments stay; the result means the same.

    \b
    krimp recipes upgrade mine.yaml
    """  # noqa: D301 click ends no line after \b
    from compress.recipe.upgrade import upgrade_text
    from compress.recipe.variants import recipe_text

    text = recipe_text(file)
    new = upgrade_text(text, str(file))
    if new == text:
        print(f"{file}: is of the current version; nothing was changed")
        return
    kept = file.with_name(f"{file.name}.old")
    outputs = Outputs("recipes upgrade", force=force, error=RecipeError)
    if out is None:
        outputs.write(kept, text)
        write_whole(file, new)  # the old one is kept
    else:
        outputs.write(out, new)
    print(f"{out or file}: format version 2" + ("" if out else f"; the old one is {kept}"))


@app.command("expand")
def expand_recipe(
    file: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe with a goal or a base.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override one field; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default: print it.")] = None,
    force: ForceOption = False,
) -> None:
    """Write a recipe with every stage written out: what a goal plans, a base holds and defaults set.

    \b
    krimp recipes expand goal.yaml -o mine.yaml      # then edit mine.yaml
    """  # noqa: D301 click ends no line after \b
    from compress.recipe.loading import load_recipe

    text = load_recipe(file, overrides or (), check_requires=False).written
    if out is None:
        print(text, end="")
    else:
        Outputs("recipes expand", force=force, error=RecipeError).write(out, text)
        print(out)


def stages(
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="Print the fields of this stage.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All stages with their fields, as a page.")] = False,
) -> None:
    """Print what each stage needs, makes and may not follow; or every field of one stage.

    A stage takes the latest artifact of a kind that it needs, or the one that its `from:` names.

    \b
    krimp stages            # the table
    krimp stages qat        # its fields: meaning, default, bounds
    """  # noqa: D301 click ends no line after \b
    from compress import stages as stage_table
    from compress.recipe.plan import stage_table as table_text
    from compress.recipe.reference import stage_text, stages_page

    if markdown:
        print(stages_page(), end="")
    elif stage is None:
        print(table_text())
    elif stage in stage_table.STAGES:
        print(stage_text(stage))
    else:
        raise RecipeError(f"there is no stage {stage!r}.{suggest(stage, list(stage_table.STAGES))}")


def _shipped(name: str) -> Path:
    path = shipped_recipes() / f"{name.removesuffix('.yaml')}.yaml"
    if Path(name).name != name or not path.is_file():
        names = sorted(file.stem for file in shipped_recipes().glob("*.yaml"))
        raise RecipeError(f"there is no shipped recipe {name!r}.{suggest(name, names)}")
    return path


def _bases(path: Path) -> list[Path]:
    """Return the recipes that one is based on, nearest first."""
    from compress.recipe.yaml_reader import parse_yaml

    data = parse_yaml(path.read_text(encoding="utf-8"), str(path)).data
    base = path.parent / data["base"] if isinstance(data, dict) and "base" in data else None
    return [] if base is None else [base, *_bases(base)]


def _title(path: Path) -> str:
    """Return the first line of a recipe's opening comment."""
    with path.open(encoding="utf-8") as lines:
        return next(lines, "").removeprefix("#").strip()
