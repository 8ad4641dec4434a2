"""Look for recipes on which the reader or the planner crashes, or takes more than a second.

    .venv/bin/python scripts/fuzz_recipes.py                 10 minutes
    .venv/bin/python scripts/fuzz_recipes.py --minutes 60 --seed 7
    .venv/bin/python scripts/fuzz_recipes.py --replay build/fuzz/findings/recipe-0-1.yaml

The shipped recipes are mutated: bytes and words of YAML in the text; numbers, types, names, nesting and aliases of its
values. Whatever comes is to be planned, and moved into the present version, or refused with a CompressError, each
within a second of processor time. Findings are kept in build/fuzz/findings, and the exit code is 1 if there are any.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a file: make the repository importable, not the folder of this script
    sys.path[0] = str(ROOT)

from compress.engine.pipeline import Run  # noqa: E402
from compress.errors import CompressError  # noqa: E402
from compress.recipe.loading import load_recipe  # noqa: E402
from compress.recipe.shipped import shipped_recipes  # noqa: E402
from compress.recipe.upgrade import upgrade_text  # noqa: E402
from compress.recipe.variants import recipe_text  # noqa: E402
from compress.recipe.yaml_reader import parse_yaml  # noqa: E402
from compress.stages import STAGES  # noqa: E402
from detectors.data.synthetic import write_dataset  # noqa: E402
from detectors.data.synthetic_scenes import SceneSettings  # noqa: E402
from scripts import fuzz_loop  # noqa: E402
from scripts.fuzz_loop import mutated  # noqa: E402

SECONDS, MEMORY_GIB = 1.0, 2
HANG_SECONDS = 10.0
# Words of YAML: what opens and closes, names and repeats, tags and directives, numbers that are none.
WORDS = (
    b"{", b"}", b"[", b"]", b": ", b"- ", b", ", b"? ", b"\n", b"\n  ", b"\t", b"|\n", b">-\n", b"&a ", b"*a",
    b"<<: *a", b"!!int ", b"!!float ", b"!!binary ", b"!!set ", b"!!null ", b"!!python/object:os.system ", b"!x ",
    b"%YAML 1.1\n",
    b"---\n", b"...\n", b"'", b'"', b'"\\ud800"', b'"\\0"', b"# ", b"~", b"null", b"true", b"yes", b".inf", b".nan",
    b"-0", b"1e999", b"0x_", b"0o9", b"1:30:00", b"9" * 60, b"[" * 60, b"{a: " * 60, b"\xff", b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"stages: ", b"base: demo.yaml\n", b"defaults: {training: {epochs: 1}}\n", b"name: x\n", b"stage: ", b"from: float",
)  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63 - 1, 2**63, -(10**30), 10**300, 0.0, -0.0, 0.5, 1e-300, 1e300,
    5e-324, "", " ", "a", "float", "test", "1", "0.5", "x" * 5000, "\u2028", "\x1b[2J", "a/b", "..", ".", "/",
    "/dev/zero",
    "/proc/self/mem", "/dev/stdin", "~", "a\0b", ":", "os:system", "json:loads", "demo", "zoo/dcfl_mbv2_hituav",
    "{x}", "%s", "é", "mAP",
    [], [0], [-1], [0, 0], [1, 2, 3], ["a"], ["a", "a"], [[]], [None], [1e300] * 2, list(range(2000)), {}, {"a": 1},
    {"stage": "qat"}, {"": 0}, {"macs": 0}, {"macs": 1e-9}, {"packed_bytes": "9999TB"}, {"teacher": "float"},
    {"a": {"a": {"a": {}}}},
)  # fmt: skip
VERSION_1 = b"""# A recipe of the first version.
name: old
detector: {plugin: dcfl, backbone: resnet18, classes: [ship, vehicle, plane]}
data: {format: dota, root: data, image_size: [256, 256]}
stages:
  - {stage: train, epochs: 3, lr: 0.002, batch_size: 8}
  - {stage: prune_structured, target: {macs: 0.6}, steps: 2}
  - {stage: finetune, epochs: 2, teacher: float}
  - {stage: qat, epochs: 1}
  - {stage: export_onnx}
  - {stage: pack}
  - {stage: report, max_map50_loss: 0.03}
"""
_PLANNED = b"classes: [ship, vehicle, plane]"  # which the drawn scenes hold: such a recipe can be planned
KEYS = (
    "stage",
    "name",
    "from",
    "training",
    "target",
    "widths",
    "protect",
    "require",
    "distill",
    "epochs",
    "lr",
    "zzz",
    "",
)


class SlowError(Exception):
    """A step took more processor time than it may."""


@cache
def bases() -> tuple[bytes, ...]:
    """Return the shipped recipes, and one of version 1."""
    return (VERSION_1, *(path.read_bytes() for path in sorted(shipped_recipes().glob("*.yaml"))))


def inputs(chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield (suffix, bytes) of recipes without end."""
    while True:
        text = chance.choice([text for text in bases() if _PLANNED in text] if chance.random() < 0.5 else bases())
        kind = chance.randrange(3)
        if kind == 0:
            yield ".yaml", mutated(text, WORDS, chance)
            continue
        text = with_other_values(parse_yaml(text.decode(), "a").data, chance)
        yield ".yaml", mutated(text, WORDS, chance) if kind == 1 and chance.random() < 0.3 else text


def with_other_values(data: dict[str, Any], chance: random.Random) -> bytes:
    """Return a recipe with one to four values replaced, moved, doubled, renamed, nested or repeated by an alias."""
    data = copy.deepcopy(data)
    written: dict[str, str] = {}  # JSON of a mark -> what stands in its place, which JSON has no words for
    for number in range(chance.choice([1, 1, 2, 4])):
        holder, key = _somewhere(data, chance)
        if chance.random() < 0.15:
            other, at = _somewhere(data, chance)
            written[json.dumps(f"mark {number}")] = f"&a{number} {json.dumps(holder[key])}"
            written[json.dumps(f"alias {number}")] = f"*a{number}"
            other[at], holder[key] = f"alias {number}", f"mark {number}"
        elif chance.random() < 0.5:
            holder[key] = copy.deepcopy(chance.choice(HOSTILE))
        else:
            _reshape(data, holder, key, chance)
        if not data:
            break
    text = json.dumps(data)
    for mark, words in written.items():
        text = text.replace(mark, words)
    return text.encode()


def _reshape(data: dict[str, Any], holder: Any, key: Any, chance: random.Random) -> None:
    """Take a value out, double, rename, move or nest it, or put a field or a stage beside it."""
    stages = data.get("stages")
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder[key:key] = copy.deepcopy(holder[key : key + chance.choice([1, 3])]) * chance.choice([1, 2, 40])
        case 1:
            holder[chance.choice((*KEYS, *map(str, holder)))] = holder.pop(key)
        case 2:
            other, at = _somewhere(data, chance)
            holder[key] = copy.deepcopy(other[at])
        case 3:
            for _ in range(chance.choice([1, 2, 40])):
                holder[key] = [holder[key]] if chance.random() < 0.5 else {chance.choice(KEYS): holder[key]}
        case 4 if isinstance(holder, dict):
            holder[chance.choice(KEYS)] = copy.deepcopy(chance.choice(HOSTILE))
        case _ if isinstance(stages, list):
            stage = {"stage": chance.choice(sorted(STAGES)), chance.choice(KEYS): chance.choice(HOSTILE)}
            stages.insert(chance.randrange(len(stages) + 1), stage)


def _somewhere(data: Any, chance: random.Random) -> tuple[Any, Any]:
    """Return a list or a mapping inside, and the index or key of one of its values."""
    places: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting and len(places) < 10_000:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list) and len(holder[key]) < 100:
                waiting.append(holder[key])
    return chance.choice(places) if places else ({0: 0}, 0)


@cache
def _scenes() -> Path:
    """Return a small data set, which planning looks at; it lies there as long as this process lives."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-recipes-")
    _KEPT.append(folder)
    counts = {"train": 2, "val": 1, "test": 1}
    write_dataset(Path(folder.name), SceneSettings(size=(96, 96), object_px=(12, 32), counts=counts))
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def check(path: Path) -> str:
    """Return how far a recipe came: 'refused', 'read' or 'planned'; whatever else escapes is a finding.

    Raises:
        SlowError: a step took more than a second.
    """
    how_far = "refused"
    for name, step in (("upgraded", _upgrade), ("read", _read), ("planned", _plan)):
        started = time.process_time()
        try:
            step(path)
            how_far = name if name != "upgraded" else how_far
        except CompressError:
            pass
        if time.process_time() - started > SECONDS:
            raise SlowError(f"more than {SECONDS} s until it was {name} or refused")
    return how_far


def _upgrade(path: Path) -> None:
    upgrade_text(recipe_text(path), str(path))


def _read(path: Path) -> None:
    load_recipe(path, check_requires=False)


def _plan(path: Path) -> None:
    job = Run(load_recipe(path, [f"data.root={_scenes()}"], check_requires=False), path.parent / "out")
    job.check(job.decide_all())


if __name__ == "__main__":
    for shipped in bases():  # what is imported once is not the recipe's
        with tempfile.NamedTemporaryFile(suffix=".yaml") as known:
            known.write(shipped)
            known.flush()
            check(Path(known.name))
    sys.exit(fuzz_loop.main("recipe", __doc__ or "", inputs, check, seconds=HANG_SECONDS, memory_gib=MEMORY_GIB))
