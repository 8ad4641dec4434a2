import json
import os
import subprocess
import sys
from pathlib import Path

import engine_fakes
import pytest

from compress.cli.main import main
from compress.engine import pipeline
from compress.errors import DataError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def engine_without_torch(fake_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "preload", lambda detector, stages: None)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        f"name: small\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
        "stages:\n  - {stage: qat}\n  - {stage: export_onnx}\n  - {stage: report}\n"
    )
    return path


def python(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_run_prints_the_table_and_where_the_report_lies(recipe_file, tmp_path, capsys):
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "params 1.23 M" in printed
    assert f"report: {tmp_path}/out/small/03_report/report.md" in printed
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("cached") == 8


def test_plan_and_dry_run_say_the_same_and_run_nothing(recipe_file, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["plan", str(recipe_file), "--out", out]) == 0
    first = capsys.readouterr().out
    assert main(["run", str(recipe_file), "--out", out, "--dry-run"]) == 0
    assert capsys.readouterr().out == first
    assert first.splitlines()[1] == "01_qat          run     not made yet"
    assert not (tmp_path / "out").exists()


def test_plan_refuses_what_a_run_would_refuse(recipe_file, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    override = "detector.plugin=engine_fakes:RefusesExport"
    assert main(["plan", str(recipe_file), "--out", out, "--set", override]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "01_qat          run     not made yet"
    assert "cannot be exported" in captured.err

    def check(self, split):
        raise DataError(f"split {split!r}: 1 label is wrong")

    monkeypatch.setattr(engine_fakes.FakeDataset, "check", check)
    assert main(["plan", str(recipe_file), "--out", out]) == 3
    assert "1 label is wrong" in capsys.readouterr().err


def test_a_wrong_recipe_exits_with_2_and_its_mistakes_on_stderr(recipe_file, tmp_path, capsys):
    assert main(["run", str(recipe_file), "--set", "stages.qat.bitwidth=3", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: --set stages.qat.bitwidth=3: stages[0].bitwidth: unknown field 'bitwidth'.")
    assert not (tmp_path / "out").exists()


def test_a_failed_stage_exits_with_4_without_a_traceback(recipe_file, tmp_path, capfd):
    arguments = ["run", str(recipe_file), "--out", str(tmp_path / "out"), "--set", "stages.qat.fault=stage error"]
    assert main(arguments) == 4
    captured = capfd.readouterr()
    assert captured.err == "error: stage qat: the numbers do not match. Use others.\n"


def test_debug_shows_the_traceback(recipe_file, tmp_path):
    from compress.errors import RecipeError

    with pytest.raises(RecipeError):
        main(["run", str(recipe_file), "--set", "x=1", "--debug"])


def test_an_unknown_option_exits_with_2(capsys):
    assert main(["run", "x.yaml", "--dryrun"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_stages_prints_the_table(capsys):
    assert main(["stages"]) == 0
    assert "| `qat` | model | quantized | - |" in capsys.readouterr().out


def test_schema_is_written_as_json(tmp_path):
    assert main(["schema", "--plugin", engine_fakes.NAME, "-o", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["properties"]["stages"]


def test_import_names_a_plugin_that_imports_nothing(tmp_path, capsys):
    assert main(["import", "x.pth", "--detector", engine_fakes.NAME, "-o", str(tmp_path / "x")]) == 3
    assert "it has no import_checkpoint" in capsys.readouterr().err


def test_the_script_next_to_the_modules_answers_without_torch_and_other_slow_libraries():
    code = (
        "import sys; sys.argv = ['compress/run.py', '--help']\n"
        "import runpy\n"
        "try: runpy.run_path('compress/run.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'mmcv', 'brevitas', 'matplotlib', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "RECIPE" in done.stdout


def test_all_commands_are_there():
    done = python("-c", "from compress.cli.main import main; main(['--help'])")
    assert done.returncode == 0, done.stderr
    for command in ("run", "plan", "stages", "schema", "import", "detect", "pack", "unpack", "verify", "inspect"):
        assert f"\n  {command} " in done.stdout


def test_running_the_script_does_not_put_its_folder_on_the_path():
    code = (
        "import sys, runpy; sys.path[0] = 'compress'; sys.argv = ['compress/run.py', '--help']\n"
        "try: runpy.run_path('compress/run.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "from pathlib import Path\n"
        "assert 'compress' not in {Path(entry).name for entry in sys.path}, sys.path"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_written_is_one_line_without_a_traceback(recipe_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", str(recipe_file), "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file/small: Not a directory. Check the path")


def test_a_missed_requirement_exits_with_1_each_time_and_names_the_limit(recipe_file, tmp_path, capsys, monkeypatch):
    entry = {"name": "max_map50_loss", "value": 0.05, "limit": 0.03, "ok": False, "how": "map50 of float - of pack"}
    others = [entry | {"name": "min_map50", "ok": True}, entry | {"name": "min_speedup", "value": None}]
    facts = {"requirements": [entry, *others]}
    monkeypatch.setattr(engine_fakes.FakeReport, "run", lambda self, context: facts)
    for _ in range(2):  # the second time from the cache
        assert main(["run", str(recipe_file), "--out", str(tmp_path / "out")]) == 1
        assert capsys.readouterr().err.splitlines() == [
            "missed: report: max_map50_loss is 0.05, limit 0.03 (map50 of float - of pack)",
            "missed: report: min_speedup is not measured, limit 0.03 (map50 of float - of pack)",
        ]


@pytest.mark.parametrize("command", ["run", "plan", "stages", "schema", "import", "detect", "pack", "unpack", "verify"])
def test_the_help_of_every_command_teaches(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") > 8
    if command != "stages":  # takes no argument
        assert f"krimp {command} " in text.replace(f"Usage: krimp {command}", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Usage: krimp"),
        (["runn"], "No such command 'runn'. Did you mean 'run'?"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "x.yaml", "--dryrun"], "No such option: --dryrun"),
        (["run", "x.yaml", "--set"], "Option '--set' requires an argument"),
        (["detect", "m.krimp", "a.png"], "Missing option '--out'"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_was_expected(arguments, text, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert text in captured.err + captured.out


def test_recipes_are_listed_with_what_they_are_for(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("demo ") and "synthetic" in line for line in lines)


def test_a_recipe_is_copied_with_its_base_and_nothing_is_overwritten_unasked(tmp_path, capsys):
    copy = tmp_path / "mine.yaml"
    assert main(["recipes", "copy", "dcfl_r101_dota20", "-o", str(copy)]) == 0
    assert (tmp_path / "dcfl_r50_dota20.yaml").exists()
    assert (tmp_path / "dcfl_r50_dota10.yaml").exists()
    copy.write_text("mine")
    assert main(["recipes", "copy", "dcfl_r101_dota20", "-o", str(copy)]) == 2
    assert copy.read_text() == "mine"
    assert main(["recipes", "copy", "dcfl_r101_dota20", "-o", str(copy), "--force"]) == 0
    assert "base:" in copy.read_text()
    assert main(["recipes", "copy", "demmo"]) == 2
    assert "Did you mean 'demo'?" in capsys.readouterr().err


def test_an_old_recipe_is_rewritten_in_place_and_kept_beside(tmp_path, capsys):
    old = tmp_path / "a.yaml"
    text = "# mine\nformat_version: 1\nname: a\ndetector: {plugin: dcfl}\nstages: [{stage: train, epochs: 3}]\n"
    old.write_text(text)
    assert main(["recipes", "upgrade", str(old)]) == 0
    assert "format_version: 2" in old.read_text()
    assert "# mine" in old.read_text()
    assert (tmp_path / "a.yaml.old").read_text() == text
    assert main(["recipes", "upgrade", str(old)]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["recipes", "upgrade", str(tmp_path / "gone.yaml")]) == 2


def test_the_fields_of_a_stage_are_printed_and_a_wrong_name_is_told(capsys):
    assert main(["stages", "qatt"]) == 2
    assert "Did you mean 'qat'?" in capsys.readouterr().err


def test_an_error_cannot_move_the_cursor_or_end_in_a_name_that_cannot_be_encoded(tmp_path, capsys):
    for name in ("\x1b[2J\x1b[31mred\u202e", "\udcff\udcfe"):
        assert main(["verify", str(tmp_path / name)]) == 5
        assert main(["plan", str(tmp_path / name)]) == 2
        text = capsys.readouterr().err
        text.encode()
        assert all(line.isprintable() for line in text.splitlines())
