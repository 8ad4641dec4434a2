"""Run a recipe: `python compress/run.py RECIPE`. The installed command is `krimp run`."""

import sys
from os import path  # already loaded by the interpreter; pathlib is not, and would import from this folder

if __name__ == "__main__":
    # Python puts this file's folder first, where a module could replace one of a library.
    _FOLDER = path.dirname(path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path = [path.dirname(_FOLDER), *(entry for entry in sys.path if path.abspath(entry or ".") != _FOLDER)]  # noqa: PTH100, PTH120

    from compress.cli.main import main

    sys.exit(main(["run", *sys.argv[1:]]))
