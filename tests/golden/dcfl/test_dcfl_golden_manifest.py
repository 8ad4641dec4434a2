"""The golden folder is whole, and each of its files and arrays is claimed by a test of this suite."""

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from golden_cases import FILES, FOLDER, OWN, OWN_FOLDER, listed_files, needs_golden, path_of
from golden_claims import CLAIMS, INFORMATION, INPUTS

LISTED = sorted(FILES)


@needs_golden
def test_there_is_a_manifest_that_lists_files():
    assert listed_files(FOLDER), f"{FOLDER} has no manifest.json that lists files"


def test_own_vectors_cover_every_kind_of_file():
    listed = listed_files(OWN_FOLDER)
    # Weights are rebuilt by name; flips are those of the old pipeline, which the plug-in does not have.
    without = {"detector/*/weights.npz", "parts/flips.npz"}
    kinds = [pattern for pattern, _ in CLAIMS if pattern not in without]
    assert all(any(fnmatch(name, pattern) for name in listed) for pattern in kinds)


@pytest.mark.parametrize("name", LISTED)
def test_file_has_the_listed_bytes(name):
    data = path_of(name).read_bytes()
    assert len(data) == FILES[name]["bytes"]
    assert hashlib.sha256(data).hexdigest() == FILES[name]["sha256"]


@pytest.mark.parametrize("name", LISTED)
def test_file_and_arrays_are_claimed_by_a_test(name):
    if name.endswith(".json") and name.replace(".json", ".npz") in FILES:
        return  # the settings of a case, read with it
    tables = [table for pattern, table in CLAIMS if fnmatch(name.removeprefix(OWN), pattern)]
    assert len(tables) == 1, f"{name} is checked by no test of this suite; add it to golden_claims.py and check it"
    with np.load(path_of(name), allow_pickle=False) as file:
        found = set(file.files)
    listed = set(FILES[name]["arrays"])
    assert found == listed or "(state_dict)" in listed
    unclaimed = [key for key in sorted(found) if not any(re.fullmatch(claim, key) for claim in tables[0])]
    assert not unclaimed, f"{name}: no test checks {unclaimed}"


@pytest.mark.parametrize("folder", [pytest.param(FOLDER, marks=needs_golden), OWN_FOLDER], ids=["golden", "own"])
def test_no_file_lies_beside_the_listed_ones(folder):
    beside = {path.relative_to(folder).as_posix() for path in folder.rglob("*.npz")} - set(listed_files(folder))
    assert not beside, f"not in the manifest: {sorted(beside)}"


def test_claims_name_modules_that_exist():
    modules = {module for _, table in CLAIMS for module in table.values()} - {INPUTS, INFORMATION}
    here = {path.stem.removeprefix("test_dcfl_golden_") for path in Path(__file__).parent.glob("test_dcfl_golden_*.py")}
    assert modules <= here
