"""Command groups that others bring: found without an import, mounted, and told when they are broken."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli.main import main

ROOT = Path(__file__).parents[3]


def test_the_group_of_the_data_sets_is_in_the_list_of_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "data" in text
    assert "Check, convert, make and cut data sets." in text


def test_another_command_imports_no_group():
    code = (
        "import sys; from compress.cli.main import main; main(['stages']);"
        "sys.exit('detectors.data.commands' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_list_of_commands_loads_neither_torch_nor_opencv():
    code = (
        "import sys; from compress.cli.main import main; main(['data', '--help']);"
        "sys.exit(bool({'torch', 'cv2', 'rasterio', 'pycocotools'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend that a package with an entry point of the group `krimp.commands` is installed."""
    (tmp_path / "foreign_group.py").write_text(
        "import typer\n"
        "app = typer.Typer(help='Of another package.')\n"
        "@app.callback()\ndef group(): ...\n"
        "@app.command()\ndef greet(name: str):\n    print('hello', name)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = importlib.metadata.entry_points

    def install(value):
        point = importlib.metadata.EntryPoint("foreign", value, "krimp.commands")
        found = lambda **chosen: [point] if chosen.get("group") == "krimp.commands" else own(**chosen)  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "entry_points", found)

    return install


def test_an_installed_package_brings_a_group_by_an_entry_point(installed, capsys):
    installed("foreign_group:app")
    assert main(["foreign", "greet", "krimp"]) == 0
    assert capsys.readouterr().out == "hello krimp\n"


def test_a_group_that_cannot_be_imported_is_an_error_that_names_it(installed, capsys):
    installed("gone_group:app")
    assert main(["foreign", "greet", "krimp"]) == 3
    assert "command group 'foreign': module 'gone_group' cannot be imported" in capsys.readouterr().err
