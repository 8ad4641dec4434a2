"""Recipes that are made to hurt: each is a RecipeError within a second, and imports nothing without leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import engine_fakes
import pytest

from compress.cli.main import main
from compress.errors import CompressError, RecipeError
from compress.recipe import yaml_reader
from compress.recipe.loading import load_recipe
from compress.recipe.upgrade import upgrade_text
from compress.recipe.yaml_reader import parse_yaml

HEAD = f"name: x\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
FIELDS = ", ".join(f"k{i}: 1" for i in range(1400))


def laughs(levels):
    above = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))
    return "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + above


def laughing_maps(levels):
    text = "{a: &a {x: 1}"
    for i in range(levels):
        below = f"*b{i - 1}" if i else "*a"
        text += f", b{i}: &b{i} {{p: {below}, q: {below}}}"
    return f"data: {text}}}\n"


HOSTILE = {
    "billion laughs": laughs(9),
    "a few laughs": laughs(6),
    "laughing maps": laughing_maps(26),
    "an alias to itself": "data: &a [*a]\n",
    "deep sequence": "data: " + "[" * 100_000,
    "deep mapping": "data: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "deep blocks": "".join(" " * i + "a:\n" for i in range(600)),
    "deep dashes": "data:\n  " + "- " * 10_000 + "a\n",
    "large file": "".join(f"k{i}: 1\n" for i in range(50_000)),
    "many values": "data: [" + "1, " * 50_000 + "]\n",
    "many fields": f"{FIELDS.replace(', ', chr(10))}\n",
    "many fields of the data": f"data: {{{FIELDS}}}\n",
    "many fields of a stage": f"stages: [{{stage: qat, {FIELDS}}}]\n",
    "many fields of a block": f"stages: [{{stage: qat, training: {{{FIELDS}}}}}]\n",
    "many defaults": f"defaults: {{training: {{{FIELDS}}}}}\nstages:\n" + "  - {stage: qat}\n" * 99,
    "many stages": "stages:\n" + "  - {stage: qat}\n" * 3000,
    "many unknown stages": "stages:\n" + "  - {stage: foo}\n" * 3000,
    "integer of 5,000 digits": f"seed: {'1' * 5000}\n",
    "hexadecimal of 10,000 digits": f"seed: 0x{'f' * 10_000}\n",
    "negative integer of 400 digits": f"seed: -{'1' * 400}\n",
    "float of 5,000 digits": f"seed: 0.{'1' * 5000}\n",
    "infinite float": "seed: 1e999\n",
    "long text": f"device: {'a' * 100_000}\n",
    "long key": f"{'a' * 100_000}: 1\n",
    "long stage": f"stages: [{{stage: {'a' * 4000}}}]\n",
    "empty int": 'seed: !!int ""\n',
    "int of a sign": 'seed: !!int "+"\n',
    "int of a word": "seed: !!int abc\n",
    "binary int": "seed: !!int 0b\n",
    "bool of a word": "seed: !!bool yes\n",
    "float of a sign": 'seed: !!float "-"\n',
    "timestamp": "seed: !!timestamp x\n",
    "a date that is none": "seed: 2001-99-99\n",
    "python object": 'data: !!python/object/apply:os.system ["id"]\n',
    "set": "data: !!set {a, b}\n",
    "binary": "data: {root: !!binary aaaa}\n",
    "unknown tag": "data: {root: !foo x}\n",
    "text of a mapping": "data: !!str {a: 1}\n",
    "zero byte": 'data: {root: "a\\0b"}\n',
    "half a character": 'device: "\\ud800"\n',
    "escape in a key": '"\\e[31mred": 1\n',
    "yaml 1.1": "%YAML 1.1\n---\nname: x\nseed: 0b_\n",
    "yaml 1.1 sixties": "%YAML 1.1\n---\nname: x\nseed: 1:99:1\n",
    "yaml 3": "%YAML 3.0\n---\nname: x\n",
    "plugin :": "detector: {plugin: ':'}\n",
    "plugin .:x": "detector: {plugin: '.:x'}\n",
    "plugin ..a:x": "detector: {plugin: '..a:x'}\n",
    "plugin os:": "detector: {plugin: 'os:'}\n",
    "plugin that is no class": "detector: {plugin: 'os:system'}\n",
    "plugin with a zero byte": 'detector: {plugin: "a\\0b:x"}\n',
    "plugin of main": "detector: {plugin: '__main__:x'}\n",
    "plugin that ends the program": "detector: {plugin: 'ends_the_program:x'}\n",
    "plugin that is no Python": "detector: {plugin: 'no_python:x'}\n",
    "format :": "data: {format: ':'}\n",
    "base of itself": "base: a.yaml\n",
    "base with a long name": f"base: {'a' * 3000}\n",
    "base that is a folder": "base: .\n",
    "base that never ends": "base: /dev/zero\n",
    "base that is a pipe": "base: pipe\n",
}


def file_of(tmp_path, text):
    path = tmp_path / "a.yaml"
    parts = [line for line in HEAD.splitlines(keepends=True) if not text.startswith((line[:5], "%"))]
    path.write_text("".join(parts) + text)
    return path


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "ends_the_program.py").write_text("raise SystemExit(0)")
    (tmp_path / "no_python.py").write_text("print 'two'")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_in_words_within_a_second(tmp_path, modules, name):
    path = file_of(tmp_path, HOSTILE[name])
    os.mkfifo(tmp_path / "pipe")
    load_recipe("demo", check_requires=False)  # what is imported once is not the recipe's
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, check_requires=False)
    assert time.process_time() - start < 1.0
    text = str(caught.value)
    assert text.startswith(str(path))
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text) < 40_000


@pytest.mark.parametrize(
    "argument",
    [
        "data.root=" + "[" * 100_000,
        "seed=" + "1" * 5000,
        "seed=!!int ''",
        "a." * 5000 + "a=1",
        "stages[" + "9" * 5000 + "]=1",
        "stages.²=1",
        'data.root="a\\0b"',
        "x[0]=1",
        "stages[0][0]=1",
        "stages=1",
        "stages[0]=null",
        "detector.plugin=:",
        "seed={a: 1, a: 2}",
    ],
)
def test_a_hostile_override_is_refused_in_words_within_a_second(tmp_path, argument):
    path = file_of(tmp_path, "stages: [{stage: qat}]\n")
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [argument], check_requires=False)
    assert time.process_time() - start < 1.0
    assert len(str(caught.value)) < 10_000


def test_what_lies_at_a_limit_is_read():
    most = yaml_reader.MOST_CHARACTERS
    assert parse_yaml(f"a: {'x' * most}\n", "a").data == {"a": "x" * most}
    assert parse_yaml(f"a: {'x' * (most + 1)}\n", "a").problems
    largest = yaml_reader.LARGEST_INTEGER
    assert parse_yaml(f"a: {largest}\n", "a").data == {"a": largest}
    assert parse_yaml(f"a: {largest + 1}\n", "a").problems
    deep = yaml_reader.MOST_LEVELS - 1  # the outermost list is a level as well
    parse_yaml("[" * deep + "1" + "]" * deep, "a")
    with pytest.raises(RecipeError, match="nested deeper"):
        parse_yaml("[" * (deep + 1) + "1" + "]" * (deep + 1), "a")
    values = yaml_reader.MOST_VALUES - 1
    assert len(parse_yaml("[" + "1, " * values + "]", "a").data) == values
    with pytest.raises(RecipeError, match="more than 5,000 values"):
        parse_yaml("[" + "1, " * (values + 1) + "]", "a")


def test_aliases_and_dates_are_read_as_yaml_1_2_says():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: 2001-12-14\n", "a").data == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": "2001-12-14",
    }


def test_bases_do_not_go_on_for_ever(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="more than 8 recipes are based on each other"):
        load_recipe(tmp_path / "0.yaml")


@pytest.mark.parametrize("name", ["billion laughs", "empty int", "a date that is none", "unknown tag", "deep mapping"])
def test_upgrade_refuses_a_hostile_recipe_too(name):
    with pytest.raises(CompressError):
        upgrade_text(f"{HEAD}stages: [{{stage: qat, epochs: 1}}]\n{HOSTILE[name]}", "a.yaml")


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A recipe whose plug-in is a module beside it that leaves a trace when it is imported."""
    trace = tmp_path / "trace"
    (tmp_path / "foreign.py").write_text(f"open({str(trace)!r}, 'w').close()\nfrom engine_fakes import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("KRIMP_ALLOW_CODE", raising=False)
    sys.modules.pop("foreign", None)
    path = tmp_path / "a.yaml"
    path.write_text("name: x\ndetector: {plugin: 'foreign:FakeDetector'}\nstages: [{stage: qat}]\n")
    yield path, trace
    sys.modules.pop("foreign", None)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_foreign_module_is_not_imported_without_leave(foreign, tmp_path, capsys, command):
    path, trace = foreign
    assert main([command, str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"error: {path}:2:20: detector.plugin: 'foreign:FakeDetector' imports the module 'foreign'" in error
    assert "--allow-code or set KRIMP_ALLOW_CODE=1" in error
    assert not trace.exists()


def test_a_foreign_data_format_is_not_imported_without_leave(foreign, fake_stages):
    path, trace = foreign
    path.write_text(
        "name: x\ndetector: {plugin: dcfl}\ndata: {format: 'foreign:FakeDataset'}\nstages: [{stage: qat}]\n"
    )
    with pytest.raises(RecipeError, match=r"data\.format: 'foreign:FakeDataset' imports the module"):
        load_recipe(path)
    assert not trace.exists()


def test_with_leave_a_foreign_module_is_imported(foreign, fake_stages, tmp_path, monkeypatch):
    path, trace = foreign
    assert main(["plan", str(path), "--out", str(tmp_path / "out"), "--allow-code"]) == 0
    assert trace.exists()
    with pytest.raises(RecipeError):
        load_recipe(path)
    monkeypatch.setenv("KRIMP_ALLOW_CODE", "1")
    assert load_recipe(path).name == "x"
    monkeypatch.setenv("KRIMP_ALLOW_CODE", "0")
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_modules_of_the_project_and_of_entry_points_need_no_leave(foreign, monkeypatch):
    from importlib.metadata import EntryPoint

    from compress import plugins

    assert plugins.code_refusal("dcfl") is None
    assert plugins.code_refusal("detectors.dcfl.adapter:DETECTOR") is None
    assert plugins.code_refusal("foreign:FakeDetector") is not None
    assert plugins.code_refusal("detectors_of_others:X") is not None
    point = EntryPoint("mine", "foreign:FakeDetector", "krimp.detectors")
    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: [point])
    assert plugins.code_refusal("foreign:FakeDetector") is None
    assert plugins.code_refusal("foreign:system") is not None


def test_the_command_line_survives_a_bomb_in_little_memory(tmp_path):
    path = file_of(tmp_path, HOSTILE["billion laughs"])
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from compress.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"}
    command = [sys.executable, "-c", program, "plan", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "more than 5,000 values" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["1", "1.5", "null", "true", "2001-12-14"])
def test_upgrade_leaves_a_key_that_is_no_text_where_it_is(key):
    found = upgrade_text(f"{HEAD}stages:\n  - {{stage: qat, epochs: 1, {key}: 2}}\n", "a.yaml")
    assert f"training: {{epochs: 1}}\n    {key}: 2\n" in found


@pytest.mark.parametrize("key", ["", "~"])
def test_upgrade_refuses_a_key_that_is_written_differently_again(key):
    with pytest.raises(RecipeError, match="cannot be rewritten without changing its meaning"):
        upgrade_text(f"{HEAD}stages:\n  - {{stage: qat, epochs: 1, {key}: 2}}\n", "a.yaml")
