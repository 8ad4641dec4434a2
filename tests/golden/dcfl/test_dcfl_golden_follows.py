"""The suite follows the folder that KRIMP_GOLDEN_DIR names: other cases, other names, and nothing unclaimed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_cases import FILES, FOLDER, needs_golden

pytestmark = needs_golden
HERE = Path(__file__).parent
SCENE, PART = "assigner/*", "parts/focal"


def write_folder(folder, chosen):
    """Copy cases, new name -> listed name, and write the manifest of the new folder."""
    files = {}
    for new, old in chosen.items():
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".npz", ".json"):
            shutil.copyfile(FOLDER / f"{old}{suffix}", folder / f"{new}{suffix}")
            (folder / f"{new}{suffix}").chmod(0o644)
        files[f"{new}.npz"] = FILES[f"{old}.npz"]
    (folder / "manifest.json").write_text(json.dumps({"kind": "copy", "files": files}))


def run_suite(folder, *modules, only="not own"):
    """Run some modules of the suite on a folder; the committed vectors are left out."""
    environment = os.environ | {"KRIMP_GOLDEN_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    paths = [str(HERE / f"test_dcfl_golden_{module}.py") for module in modules]
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-k", only, *paths]
    return subprocess.run(command, cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False)


def smallest(prefix):
    names = [name for name in FILES if name.startswith(prefix) and not name.startswith("own/")]
    if not names:
        pytest.skip(f"the folder has no {prefix}")
    return min(names, key=lambda name: FILES[name]["bytes"]).removesuffix(".npz")


def test_other_names_are_followed_and_the_rest_is_skipped_visibly(tmp_path):
    write_folder(tmp_path, {"assigner/z99_new_name": smallest("assigner/"), PART: PART})
    done = run_suite(tmp_path, "manifest", "assigner", "parts", "losses")
    assert done.returncode == 0, done.stdout
    passed = "\n".join(line for line in done.stdout.splitlines() if line.startswith("PASSED"))
    assert "test_compat_map_is_the_published_one[assigner/z99_new_name:s64_final" in passed
    assert "test_focal_loss_and_its_gradient[parts/focal:" in passed
    assert "the manifest lists no detector/*/loss_*.npz" in done.stdout
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert all(f"test_file_has_the_listed_bytes[{name}]" in passed for name in listed)


def test_changed_unclaimed_and_unlisted_files_fail(tmp_path):
    write_folder(tmp_path, {PART: PART, "parts/novelty": PART})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    shutil.copyfile(tmp_path / f"{PART}.npz", tmp_path / "parts" / "beside.npz")
    with (tmp_path / f"{PART}.npz").open("ab") as file:
        file.write(b"\0")
    assert (
        hashlib.sha256((tmp_path / f"{PART}.npz").read_bytes()).hexdigest()
        != manifest["files"][f"{PART}.npz"]["sha256"]
    )
    done = run_suite(tmp_path, "manifest")
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 3, done.stdout
    assert "parts/novelty.npz is checked by no test" in done.stdout
    assert "not in the manifest: ['parts/beside.npz']" in done.stdout


def test_absent_folder_is_skipped_visibly(tmp_path):
    done = run_suite(tmp_path / "nowhere", "assigner", "detector", "losses")
    assert done.returncode == 0, done.stdout
    assert "no golden numbers in" in done.stdout
    assert "SKIPPED" in done.stdout
    assert "test_compat_map_is_the_published_one" not in done.stdout.split("short test summary")[0]
