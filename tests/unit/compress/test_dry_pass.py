"""The dry pass: what would break after the training is said before; once, in a child, without torch in this process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli.main import main
from compress.engine import dry_pass as engine
from compress.engine import pipeline
from compress.recipe.loading import load_recipe

ROOT = Path(__file__).parents[3]


def rehearse(recipe_file, out, *overrides, **options):
    job = pipeline.Run(load_recipe(recipe_file, overrides), out, **options)
    return job.dry_pass(job.decide_all())


def test_plan_says_that_it_passed_and_takes_it_from_the_cache_then(recipe_file, plugin, tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["plan", str(recipe_file), "--out", str(out), "--no-forecast"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("dry pass: passed in ")
    assert [path.name for path in (out / "dry").iterdir()] == [engine.FILE]
    assert main(["plan", str(recipe_file), "--out", str(out), "--json", "--no-forecast"]) == 0
    assert json.loads(capfd.readouterr().out)["dry_pass"] == {
        "state": "cached",
        "reason": "",
        "seconds": 0.0,
        "kept": [],
    }
    # What does not change what a stage does to the network asks nothing anew; what does, does.
    assert rehearse(recipe_file, out, "stages.qat.training.epochs=9").state == "cached"
    assert rehearse(recipe_file, out, "stages.prune_structured.target.macs=0.5").state == "passed"
    plugin("x = x * 1.0")  # the version of the plug-in is as it was
    assert rehearse(recipe_file, out, "stages.prune_structured.target.macs=0.5").state == "passed"


def test_a_network_that_cannot_be_quantized_is_refused_before_anything_runs(recipe_file, plugin, tmp_path, capfd):
    plugin("x = x * 2 if x.sum() > 0 else x")
    words = "stages[3]: stage qat"
    out = tmp_path / "out"
    for _ in range(2):  # a failure is never kept as a success
        assert main(["plan", str(recipe_file), "--out", str(out)]) == 4
        captured = capfd.readouterr()
        assert "01_prune_structured" in captured.out
        assert f"error: {recipe_file}:" in captured.err
        assert words in captured.err
        assert "Traceback" not in captured.err
        assert not (out / "dry" / engine.FILE).exists()
    assert main(["plan", str(recipe_file), "--out", str(out), "--no-dry-pass", "--no-forecast"]) == 0
    assert main(["run", str(recipe_file), "--out", str(out)]) == 4
    assert words in capfd.readouterr().err
    assert not list((out / "dry").glob("0*"))


def test_a_network_whose_graph_would_compute_something_else_is_refused(recipe_file, plugin, tmp_path, capfd):
    plugin("__import__('torch').mul(x, 2.0, out=x)")
    assert main(["plan", str(recipe_file), "--out", str(tmp_path / "out")]) == 4
    assert "of the traced network differs from that of the network itself by more than 1%" in capfd.readouterr().err


def test_fields_that_name_layers_are_asked_too(recipe_file, tmp_path, capfd):
    arguments = ["plan", str(recipe_file), "--out", str(tmp_path / "out")]
    for override, words in [
        ("stages.prune_structured.protect={bdy: mine}", "protect: no module is called 'bdy'. Did you mean 'body'?"),
        (
            "stages.prune_structured.widths={bdy: 8}",
            "no layer with channels is called 'bdy'. Did you mean 'body'?",
        ),
        ("stages.prune_structured.widths={head: 4}", "widths: head keeps its channels: raw output. Take it out of"),
        ("stages.prune_structured.target.macs=0.01", "stage prune_structured"),
        (
            "stages.prune_unstructured.skip=['bdy*']",
            "skip: no layer with weights is called 'bdy*'. Did you mean",
        ),
        ("stages.prune_unstructured.skip=[bdy]", "called 'bdy'. Did you mean 'body'?"),
        (
            "stages.qat.layer_bit_widths={bdy: 5}",
            "with quantized weights is called 'bdy'. Did you mean 'body'?",
        ),
        ("stages.qat.layer_bit_widths={body: 8}", "layer_bit_widths: body"),
    ]:
        assert main([*arguments, "--set", override]) == 4, override
        assert words in capfd.readouterr().err


def test_the_planner_needs_no_torch_and_a_machine_without_it_says_so(recipe_file, tmp_path, monkeypatch):
    real = engine.importlib.util.find_spec
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    passed = rehearse(recipe_file, tmp_path / "out")
    assert str(passed) == "dry pass: not run: torch not installed here"
    assert not (tmp_path / "out").exists()
    program = (
        "import sys; from compress.cli.main import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "plan", str(recipe_file), "--out", str(tmp_path / "out")]
    path = ":".join(map(str, (ROOT, tmp_path, Path(__file__).parent)))
    environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "KRIMP_ALLOW_CODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "dry pass: passed in " in done.stdout


def test_a_pass_that_takes_too_long_is_given_up_and_the_plan_goes_on(recipe_file, plugin, tmp_path, monkeypatch):
    plugin("__import__('time').sleep(30)")
    monkeypatch.setattr(engine, "LIMIT_S", 1)
    passed = rehearse(recipe_file, tmp_path / "out")
    assert passed.state == "not run"
    assert "SIGALRM" in passed.reason
    assert rehearse(recipe_file, tmp_path / "out").state == "not run"


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        ("# here", [(128, 128), (192, 256)]),
        ("assert x.shape[-2:] == (96, 128), 'made for 192 x 256 only'", [(192, 256)]),
    ],
)
def test_a_network_that_needs_its_size_is_tried_at_it(recipe_file, plugin, tmp_path, line, sizes):
    from compress.actions.dry_pass import _sizes

    plugin(line)
    assert list(_sizes(pipeline.Run(load_recipe(recipe_file), tmp_path / "out").detector)) == sizes


def test_nothing_is_asked_where_no_stage_changes_a_network(recipe_file, tmp_path):
    assert rehearse(recipe_file, tmp_path / "out", until="train") is None
