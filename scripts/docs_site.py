"""Gather the pages of the site: the Markdown files of the tree, the commands, and a page of reference for each package.

python scripts/docs_site.py [--out out/docs] [--force]      `make docs-site` calls it and builds the site

Pages keep their places in the tree, so their links to each other hold. A page's name in backquotes becomes a link to
it. Everything is made anew from what stands; nothing is written by hand for the site.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compress.cli.ending import run_command  # noqa: E402
from compress.outputs import MANIFEST, Outputs  # noqa: E402

COMMAND = "scripts/docs_site.py"
PACKAGES = ("compress", "detectors")
# Pages by their places, in the order of the menu; pages that are not named come last.
MENU = (
    "README.md",
    "CONTRIBUTING.md",
    "compress/DESIGN.md",
    "compress/codec/FORMAT.md",
    "recipes/README.md",
    "detectors/README.md",
    "detectors/dcfl/README.md",
    "detectors/torchvision/README.md",
    "detectors/openmmlab/README.md",
)
FENCE = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"(?<!\[)`([\w./-]+\.md)`")


def pages() -> dict[str, str]:
    """Return the Markdown files of the tree as pages of the site, by place."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split() if (ROOT / name).is_file()]
    return {name: linked(name, (ROOT / name).read_text(encoding="utf-8"), names) for name in names}


def linked(page: str, text: str, names: list[str]) -> str:
    """Return a page in which names of other pages are links; code blocks stay as they are.

    Args:
        page: place of the page in the tree.
        text: its Markdown.
        names: places of all pages.
    """

    def link(match: re.Match[str]) -> str:
        if match[1] not in names or match[1] == page:
            return match[0]
        return f"[`{match[1]}`]({os.path.relpath(match[1], Path(page).parent)})"

    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [NAMED.sub(link, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, NAMED.sub(link, text[at:])])


def command_page() -> str:
    """Return the page of the commands: the help of each, as the terminal shows it."""
    lines = ["# Commands", "", "```text", help_of(), "```", ""]
    for name in commands(help_of()):
        text = help_of(name)
        lines += [f"## krimp {name}", "", "```text", text, "```", ""]
        for part in commands(text):
            lines += [f"### krimp {name} {part}", "", "```text", help_of(name, part), "```", ""]
    return "\n".join(lines)


def help_of(*names: str) -> str:
    """Return the help of a command, or of `krimp` itself."""
    call = "import sys; from compress.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-c", call, *names, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands(text: str) -> list[str]:
    """Return the names of the commands that a help lists."""
    _, found, listed = text.partition("Commands:\n")
    return re.findall(r"^  ([a-z][\w-]*)", listed, flags=re.MULTILINE) if found else []


def reference_pages() -> dict[str, str]:
    """Return a page of reference for each package, by place: its modules with their docstrings."""
    found = {}
    for package in PACKAGES:
        for folder in [ROOT / package, *sorted((ROOT / package).rglob("*/"))]:
            if not (folder / "__init__.py").is_file():
                continue
            name = ".".join(folder.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
            blocks = [f"# {name}", f"::: {name}\n    options: {{members: false}}"]
            blocks += [f"## {module}\n\n::: {name}.{module}" for module in modules]
            found[f"reference/{name}.md"] = "\n\n".join(blocks) + "\n"
    if (ROOT / "krimp.py").is_file():
        found["reference/krimp.md"] = "# krimp\n\n::: krimp\n"
    return dict(sorted(found.items()))


def title(name: str, text: str) -> str:
    """Return what the menu calls a page: its first heading."""
    heading = re.search(r"^# (.*)$", text, flags=re.MULTILINE)
    return heading[1].replace("`", "") if heading else name


def site() -> dict[str, str]:
    """Return all files of the site's source by place, mkdocs.yml among them."""
    tree, reference = pages(), reference_pages()
    made = {**tree, "reference/commands.md": command_page(), **reference}
    order = [name for name in MENU if name in tree] + [name for name in tree if name not in MENU]
    menu: list[dict[str, object]] = [{title(name, tree[name]): name} for name in order if name in MENU]
    menu += [{"Commands": "reference/commands.md"}]
    menu += [{"Reference": [{title(name, text): name} for name, text in reference.items()]}]
    menu += [{"More": [{title(name, tree[name]): name} for name in order if name not in MENU]}]
    return {**made, "mkdocs.yml": json.dumps(settings(menu), indent=2)}


def settings(menu: list[dict[str, object]]) -> dict[str, object]:
    """Return the settings of the builder (JSON is YAML)."""
    style = {
        "docstring_style": "google",
        "docstring_options": {"returns_multiple_items": False, "returns_named_value": False},
        "show_submodules": False,
        "show_root_toc_entry": False,
        "show_source": False,
        "show_if_no_docstring": True,
        "show_signature_annotations": True,
        "separate_signature": True,
        "heading_level": 3,
        "members_order": "source",
        "filters": ["!^_"],
    }
    python = {"paths": [str(ROOT)], "options": style}
    return {
        "site_name": "Krimp",
        "docs_dir": "pages",
        "site_dir": "../site",
        "theme": {"name": "readthedocs", "navigation_depth": 3},
        "markdown_extensions": ["tables", "fenced_code", "toc"],
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": python}}}],
        "validation": {"links": {"anchors": "warn", "unrecognized_links": "warn"}},
        "nav": menu,
    }


def main() -> None:
    """Write the source of the site; what an earlier call wrote there goes, what is somebody's is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "docs", help="folder, made anew")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args()
    write(site(), options.out, force=options.force)


def write(files: dict[str, str], out: Path, *, force: bool = False) -> None:
    """Write the source of the site in the place of what an earlier call wrote.

    Args:
        files: text of each page by place, and of mkdocs.yml.
        out: folder of mkdocs.yml, and of the folder `pages`.
        force: replace files of somebody's, too.

    Raises:
        CompressError: a file there is somebody's.
    """
    pages = out / "pages"
    old = [path for path in pages.rglob("*") if path.is_file() and path.name != MANIFEST]
    Outputs(COMMAND, force=force).claim([*old, out / "mkdocs.yml"])
    shutil.rmtree(pages, ignore_errors=True)
    outputs = Outputs(COMMAND, force=force)
    for name, text in files.items():
        path = out / name if name == "mkdocs.yml" else pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        outputs.write(path, text, synced=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
