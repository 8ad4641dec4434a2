"""Mutated recipes are planned or refused in words; for minutes in scripts/fuzz_recipes.py."""

import random

import pytest

from compress.errors import CompressError
from scripts import fuzz_recipes
from scripts.fuzz_recipes import bases, check, inputs


def test_mutated_recipes_are_planned_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_recipes, "SECONDS", 10.0)  # only what hangs: the tests run beside others
    for text in bases():  # what is imported once is not the recipe's
        (tmp_path / "a.yaml").write_bytes(text)
        check(tmp_path / "a.yaml")
    found = set()
    for number, (suffix, data) in enumerate(inputs(random.Random(3))):
        if number == 120:
            break
        path = tmp_path / f"w{suffix}"
        path.write_bytes(data)
        found.add(check(path))
    assert found >= {"refused", "read"}


def test_the_recipe_of_the_demo_is_planned_as_it_is(tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_bytes(next(text for text in bases() if b"name: demo\n" in text))
    assert check(path) == "planned"


@pytest.mark.parametrize("step", ["_upgrade", "_read", "_plan"])
def test_what_breaks_or_takes_long_is_a_finding(tmp_path, monkeypatch, step):
    path = tmp_path / "a.yaml"
    path.write_bytes(fuzz_recipes.VERSION_1)

    def breaks(_):
        raise KeyError("a")

    monkeypatch.setattr(fuzz_recipes, step, breaks)
    with pytest.raises(KeyError):
        check(path)
    clock = iter(range(100))
    monkeypatch.setattr(fuzz_recipes.time, "process_time", lambda: 2 * next(clock))
    monkeypatch.setattr(fuzz_recipes, step, lambda path: None)
    with pytest.raises(fuzz_recipes.SlowError):
        check(path)
    assert not issubclass(fuzz_recipes.SlowError, CompressError)
