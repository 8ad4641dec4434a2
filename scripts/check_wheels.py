"""Ask the package index which wheel each pin of requirements.txt has on 64-bit ARM; write the table that a test reads.

python scripts/check_wheels.py [--out tests/docs/wheels.json] [--force]

The table says for 64-bit ARM (a drone's computer) and every supported Python which file is installed, or null where
there is none. It is remade with --force when a pin changes; the test (tests/docs/test_packaging.py) needs no network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compress.cli.ending import run_command  # noqa: E402
from compress.outputs import Outputs  # noqa: E402

PYTHONS = ("3.11", "3.12", "3.13")
# glibc 2.17 to 2.28, newest last: the images of current single-board computers have 2.31 or later.
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)))


def pins(path: Path) -> list[str]:
    """Return the pins of a requirements file, 'name==version' each."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def wheels(requirements: list[str], python: str) -> dict[str, str | None]:
    """Return the wheel of each pin on ARM, None where the index has none.

    Args:
        requirements: 'name==version' each; asked for together, and one by one where one of them has no wheel.
        python: version of Python, '3.11'.
    """
    files = _asked(requirements, python)
    if files is not None:
        return dict(zip(requirements, files, strict=True))
    if len(requirements) == 1:
        return {requirements[0]: None}
    middle = len(requirements) // 2
    return wheels(requirements[:middle], python) | wheels(requirements[middle:], python)


def _asked(requirements: list[str], python: str) -> list[str] | None:
    """Return the file names in the order of the requirements, None if pip cannot install all of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--python-version", python]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        command += ["--target", str(Path(folder) / "none"), "--report", str(report), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if "No matching distribution found" not in done.stderr:
                raise SystemExit(f"check_wheels: pip failed: {done.stderr.strip().splitlines()[-1]}")
            return None
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {_canonical(entry["metadata"]["name"]): entry["download_info"]["url"] for entry in found}
    return [names[_canonical(pin.partition("==")[0])].rpartition("/")[2].replace("%2B", "+") for pin in requirements]


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "docs" / "wheels.json", help="where to write it")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    options = parser.parse_args()
    outputs = Outputs("scripts/check_wheels.py", force=options.force)
    outputs.claim([options.out])
    requirements = pins(ROOT / "requirements.txt")
    by_python = {python: wheels(requirements, python) for python in PYTHONS}
    table = {pin: {python: by_python[python][pin] for python in PYTHONS} for pin in requirements}
    outputs.write(options.out, json.dumps({"aarch64": table}, indent=1) + "\n")
    missing = [pin for pin, files in table.items() if None in files.values()]
    print(f"{options.out}: {len(table)} pins; without a wheel for ARM: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
