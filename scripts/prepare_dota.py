"""`krimp data prepare-dota` as a script, for a folder in which nothing was installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compress.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "prepare-dota", *sys.argv[1:]]))
