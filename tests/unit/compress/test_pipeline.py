import contextlib
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_fakes
import pytest

from compress import artifact as artifacts
from compress.artifact import damage, find_folder, hash_json, open_artifact
from compress.engine import pipeline
from compress.engine.child import _wait
from compress.errors import DataError, DetectorError, RecipeError, StageError
from compress.folder_lock import lock_folder
from compress.recipe.loading import load_recipe

ROOT = Path(__file__).parents[3]
PROGRAM = """
import signal, sys, engine_fakes
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background starts with Ctrl-C ignored
from compress.engine import pipeline
engine_fakes.install()
pipeline.preload = lambda detector, stages: None  # the fakes need no torch, whose import takes seconds
from compress.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def engine_without_torch(fake_stages, monkeypatch):
    monkeypatch.setattr(pipeline, "real_preload", pipeline.preload, raising=False)
    # The children of these tests need no torch, and importing it would take most of the time.
    monkeypatch.setattr(pipeline, "preload", lambda detector, stages: None)


@pytest.fixture
def recipe_file(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val", "test"):
        (data / split).write_text(split)
    (tmp_path / "weights.safetensors").write_text("weights")
    path = tmp_path / "a.yaml"
    path.write_text(f"""
name: small
detector: {{plugin: "engine_fakes:FakeDetector", checkpoint: {tmp_path}/weights.safetensors}}
data: {{root: {data}}}
stages:
  - {{stage: prune_structured, sparsity: 0.5}}
  - {{stage: finetune, distill: {{teacher: float}}}}
  - {{stage: export_onnx}}
  - {{stage: evaluate, split: test}}
  - {{stage: report}}
""")
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(recipe_file, out, *overrides, **options):
    return pipeline.run(load_recipe(recipe_file, overrides), out, **options)


def what_ran(results):
    return [result.artifact.label for result in results if not result.was_cached]


def why(recipe_file, out, *overrides, **options):
    decisions = pipeline.Run(load_recipe(recipe_file, overrides), out, **options).decide_all()
    return {decision.planned.label: decision.reasons for decision in decisions if decision.state == "run"}


def command(recipe_file, out, *arguments, **options):
    folders = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", str(recipe_file), "--out", str(out), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def wait_for(path, process, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not list(path.parents[1].glob(f"{path.parent.name}/{path.name}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def test_all_stages_run_in_order_and_then_come_from_the_cache(recipe_file, out):
    first = run(recipe_file, out)
    labels = ["float", "prune_structured", "finetune", "export_onnx", "evaluate", "report"]
    assert [result.artifact.label for result in first] == labels
    assert what_ran(first) == labels
    assert sorted(path.name for path in (out / "small").glob("[0-9]*")) == [
        f"{i:02d}_{x}" for i, x in enumerate(labels)
    ]
    assert what_ran(run(recipe_file, out)) == []
    assert why(recipe_file, out) == {}


def test_stages_run_in_processes_of_their_own_whose_peak_memory_is_kept(recipe_file, out):
    results = run(recipe_file, out, "stages.prune_structured.fault=memory")
    facts = [result.artifact.facts for result in results]
    assert len({fact["pid"] for fact in facts} | {os.getpid()}) == len(facts) + 1
    memory = {result.artifact.label: result.artifact.peak_memory_bytes for result in results}
    assert memory["prune_structured"] - memory["finetune"] > 150_000_000
    assert all(result.artifact.seconds > 0 for result in results)


def test_facts_inputs_and_lineage_reach_the_manifest(recipe_file, out):
    run(recipe_file, out)
    finetune = open_artifact(out / "small" / "02_finetune")
    assert finetune.facts["inputs"] == ["float", "source"]
    assert finetune.lineage == ("float", "prune_structured", "finetune")
    assert finetune.kind == "model"
    assert finetune.file("sub/content.txt").read_text().startswith("finetune\n")


def test_a_changed_field_runs_its_stage_and_what_depends_on_it(recipe_file, out):
    run(recipe_file, out)
    reasons = why(recipe_file, out, "stages.finetune.epochs=3")
    assert reasons == {
        "finetune": ("epochs 1 -> 3",),
        "export_onnx": ("input finetune runs first",),
        "evaluate": ("input export_onnx runs first",),
        "report": ("input finetune runs first", "input export_onnx runs first", "input evaluate runs first"),
    }
    assert what_ran(run(recipe_file, out, "stages.finetune.epochs=3")) == list(reasons)


def test_fields_that_do_not_change_the_result_run_nothing(recipe_file, out):
    run(recipe_file, out)
    assert why(recipe_file, out, "stages.finetune.sleep_s=0.01", "device=cpu") == {}


def test_dry_run_names_each_kind_of_change(recipe_file, out, tmp_path, monkeypatch):
    run(recipe_file, out)
    assert why(recipe_file, out, "seed=1")["float"] == ("seed 0 -> 1",)
    assert why(recipe_file, out, "detector.channels=4")["float"] == ("detector.channels 8 -> 4",)
    assert why(recipe_file, out, "data.image_size=[64, 96]")["float"] == ("data.image_size [64, 64] -> [64, 96]",)
    (tmp_path / "data" / "train").write_text("more")
    assert why(recipe_file, out)["finetune"] == ("data digest of split train",)
    (tmp_path / "data" / "train").write_text("train")
    monkeypatch.setattr(engine_fakes.FakeExport, "CODE_VERSION", 2)
    assert why(recipe_file, out)["export_onnx"] == ("code of stage, version 1 -> 2",)
    monkeypatch.setattr(engine_fakes.FakeDetector, "VERSION", "2")
    assert why(recipe_file, out)["float"] == ("plugin.version 1 -> 2",)


def test_a_checkpoint_counts_by_content_not_by_path(recipe_file, out, tmp_path):
    run(recipe_file, out)
    copy = tmp_path / "copy.safetensors"
    shutil.copy(tmp_path / "weights.safetensors", copy)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    assert why(recipe_file, out, f"detector.checkpoint={copy}", f"data.root={tmp_path}/moved") == {}
    copy.write_text("others")
    assert why(recipe_file, out, f"detector.checkpoint={copy}")["float"] == ("content of detector.checkpoint",)


def test_a_stage_that_gives_the_same_bytes_again_spares_what_follows(recipe_file, out, tmp_path):
    run(recipe_file, out)
    (tmp_path / "data" / "train").write_text("more")
    assert what_ran(run(recipe_file, out)) == ["finetune"]


def test_a_stage_put_in_before_others_moves_their_folders_without_running_them(recipe_file, out):
    run(recipe_file, out)
    text = recipe_file.read_text()
    extra = "stages:\n  - {stage: evaluate, name: early, split: val}\n"
    recipe_file.write_text(text.replace("stages:\n", extra))
    assert what_ran(run(recipe_file, out)) == ["early", "report"]
    assert (out / "small" / "02_prune_structured").is_dir()
    assert not (out / "small" / "01_prune_structured").exists()


def test_from_runs_again_what_is_cached_and_until_stops(recipe_file, out):
    run(recipe_file, out)
    results = run(recipe_file, out, start="finetune", until="export_onnx")
    assert what_ran(results) == ["finetune", "export_onnx"]
    assert results[-1].artifact.label == "export_onnx"
    with pytest.raises(RecipeError, match=r"--from finetun: no stage has that name\. Did you mean 'finetune'\?"):
        run(recipe_file, out, start="finetun")
    with pytest.raises(RecipeError, match="--from export_onnx: it comes after --until finetune"):
        run(recipe_file, out, start="export_onnx", until="finetune")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "sub/content.txt").write_text("x"), "content differs from its hash"),
        (lambda folder: (folder / "sub/content.txt").unlink(), "content.txt: file is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: file is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"key": '), "not a whole manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a whole manifest"),
    ],
)
@pytest.mark.usefixtures("on_the_console")
def test_a_damaged_artifact_is_rebuilt_and_the_reason_printed(recipe_file, out, capsys, harm, reason):
    run(recipe_file, out)
    harm(out / "small" / "02_finetune")
    capsys.readouterr()
    assert what_ran(run(recipe_file, out)) == ["finetune"]
    printed = capsys.readouterr().out
    assert "damaged: " in printed
    assert reason in printed
    assert damage(out / "small" / "02_finetune") is None


def test_a_changed_fact_in_a_manifest_is_damage(recipe_file, out):
    run(recipe_file, out)
    manifest = out / "small" / "02_finetune" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1234567", "1234568"))
    assert "content differs from its own hash" in why(recipe_file, out)["finetune"][0]


def test_the_error_of_a_stage_keeps_its_text_and_exit_code(recipe_file, out):
    with pytest.raises(StageError, match=r"^stage finetune: the numbers do not match\. Use others\.$") as caught:
        run(recipe_file, out, "stages.finetune.fault=stage error")
    assert caught.value.exit_code == 4
    assert find_folder(out / "small", "prune_structured") is not None
    assert find_folder(out / "small", "finetune") is None


def test_a_fault_of_the_program_shows_its_traceback_and_stops_the_run(recipe_file, out, capfd):
    with pytest.raises(StageError, match=r"stage finetune: ZeroDivisionError: a bug\. This is a fault of Krimp"):
        run(recipe_file, out, "stages.finetune.fault=bug")
    assert "Traceback" in capfd.readouterr().err


def test_a_killed_stage_is_named_with_its_signal_and_resumes_in_its_scratch_folder(recipe_file, out):
    with pytest.raises(StageError, match="stage finetune: its process was killed by SIGKILL at a peak of"):
        run(recipe_file, out, "stages.finetune.fault=killed")
    assert len(list((out / "small" / ".scratch").iterdir())) == 1
    results = run(recipe_file, out)
    assert what_ran(results) == ["finetune", "export_onnx", "evaluate", "report"]
    assert results[2].artifact.facts["resumed"]
    assert list((out / "small" / ".scratch").iterdir()) == []


def test_a_full_disk_is_a_clear_error_whoever_meets_it(recipe_file, out, monkeypatch):
    text = (
        r"stage finetune: the disk of .* is full or a quota is used up \([\d.]+ k?M?G?B free on the disk\)\. Free some"
    )
    with pytest.raises(StageError, match=text):
        run(recipe_file, out, "stages.finetune.fault=disk full")

    def no_space(draft, **names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts, "seal", no_space)
    with pytest.raises(StageError, match="is full"):
        run(recipe_file, out)
    monkeypatch.undo()


@pytest.mark.parametrize("free_kb", [0, 8, 24, 40])
def test_a_disk_that_is_really_full_is_one_line_and_the_run_goes_on_later(recipe_file, tmp_path, free_kb):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        fill = disk / "fill"
        with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(fill, fill.stat().st_size - free_kb * 1024)
        process = command(recipe_file, disk / "out")
        _, error = process.communicate(timeout=60)
        assert process.returncode in (1, 4), error
        assert re.search(r"^error: .*(disk is full|disk of .* is full|No space left)", error, flags=re.MULTILINE)
        assert "Traceback" not in error
        fill.unlink()
        assert what_ran(run(recipe_file, disk / "out"))[-1] == "report"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_warnings_of_a_stage_reach_the_report_even_from_the_cache(recipe_file, out):
    run(recipe_file, out, "stages.finetune.fault=warning")
    assert (out / "small" / "05_report" / "report.md").read_text() == "layer x is skipped"
    assert open_artifact(out / "small" / "02_finetune").facts["warnings"] == ["layer x is skipped"]
    run(recipe_file, out, start="report")
    assert (out / "small" / "05_report" / "report.md").read_text() == "layer x is skipped"


def test_an_export_that_the_plugin_refuses_is_named_at_its_place_before_any_stage_runs(recipe_file, out):
    lines = recipe_file.read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if "export_onnx" in text)
    with pytest.raises(RecipeError) as caught:
        run(recipe_file, out, "detector.plugin=engine_fakes:RefusesExport")
    text = f"{recipe_file}:{line}:5: stages[2]: its second stage cannot be exported. Leave out export_onnx."
    assert str(caught.value) == text
    assert find_folder(out / "small", "prune_structured") is None


def test_metadata_that_its_own_reader_would_refuse_is_told_before_any_stage_runs(recipe_file, out):
    wanted = (
        r"^model files of this recipe would be refused: krimp\.deploy: refused is there\. Correct it in the recipe\.$"
    )
    with pytest.raises(DetectorError, match=wanted):
        run(recipe_file, out, "detector.plugin=engine_fakes:MetadataOutOfBounds")
    assert find_folder(out / "small", "prune_structured") is None


def test_what_comes_before_a_refused_export_can_be_run(recipe_file, out):
    results = run(recipe_file, out, "detector.plugin=engine_fakes:RefusesExport", until="finetune")
    assert what_ran(results) == ["float", "prune_structured", "finetune"]


def test_wrong_data_is_refused_before_any_stage_runs(recipe_file, out, tmp_path):
    (tmp_path / "data" / "test").unlink()
    with pytest.raises(DataError, match="split 'test' is missing"):
        run(recipe_file, out)
    assert find_folder(out / "small", "float") is None


def test_what_a_kill_left_between_two_renames_is_put_right(recipe_file, out):
    run(recipe_file, out)
    root = out / "small"
    (root / ".old").mkdir()
    (root / "02_finetune").rename(root / ".old" / "02_finetune")
    (root / ".new").mkdir(exist_ok=True)
    (root / "03_export_onnx").rename(root / ".new" / "03_export_onnx")
    (root / ".new" / "04_evaluate").mkdir()
    assert what_ran(run(recipe_file, out)) == []
    assert not list((root / ".new").iterdir())


def test_kill_9_of_the_whole_run_kills_the_stage_and_the_next_run_resumes(recipe_file, out):
    process = command(recipe_file, out, "--set", "stages.finetune.sleep_s=60")
    wait_for(out / "small" / ".scratch" / "finetune-*" / "started", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)  # ends only when the child has closed its standard output as well
    results = run(recipe_file, out)
    assert what_ran(results) == ["finetune", "export_onnx", "evaluate", "report"]
    assert results[2].artifact.facts["resumed"]


def _text_of(path):
    return path.read_text() if path.exists() else ""


def test_a_run_killed_at_random_moments_ends_with_the_artifacts_of_an_undisturbed_one(recipe_file, out, tmp_path):
    run(recipe_file, tmp_path / "calm")
    slow = [f"--set=stages.{name}.sleep_s=0.25" for name in ("prune_structured", "finetune", "export_onnx", "evaluate")]
    moments, killed = random.Random(0), 0
    while True:
        process = command(recipe_file, out, *slow)
        while killed < 12 and f"process {process.pid} " not in _text_of(out / "small" / ".lock"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        try:
            process.communicate(timeout=moments.uniform(0.0, 0.4) if killed < 12 else 60)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
            killed += 1
    assert process.returncode == 0
    assert killed >= 3
    folders = sorted((out / "small").glob("[0-9]*"))
    assert [damage(folder) for folder in folders] == [None] * 6
    calm = [open_artifact(folder).digest for folder in sorted((tmp_path / "calm" / "small").glob("[0-9]*"))]
    assert [open_artifact(folder).digest for folder in folders] == calm
    assert [path for name in (".new", ".old") for path in (out / "small" / name).glob("*")] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(recipe_file, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="Permission denied"):
        run(recipe_file, tmp_path / "locked")


def test_a_file_size_limit_is_an_error_like_a_full_disk(recipe_file, out, monkeypatch):
    """RLIMIT_FSIZE, a quota by another name: the system answers EFBIG instead of ENOSPC."""

    def write_much(self, context):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        context.folder.joinpath("large").write_bytes(bytes(200_000))

    monkeypatch.setattr(engine_fakes.FakeFinetune, "run", write_much)
    with pytest.raises(StageError, match=r"stage finetune: the disk of .* is full or a quota is used up"):
        run(recipe_file, out)
    assert find_folder(out / "small", "prune_structured") is not None
    monkeypatch.undo()


def test_ctrl_c_ends_run_and_stage_and_says_how_to_go_on(recipe_file, out):
    process = command(recipe_file, out, "--set", "stages.finetune.sleep_s=60", start_new_session=True)
    wait_for(out / "small" / ".scratch" / "finetune-*" / "started", process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "interrupted; run the same command again to resume\n")
    assert what_ran(run(recipe_file, out)) == ["finetune", "export_onnx", "evaluate", "report"]


def test_a_second_run_in_the_same_folder_is_refused_or_waits(recipe_file, out):
    first = command(recipe_file, out, "--set", "stages.finetune.sleep_s=3")
    wait_for(out / "small" / ".scratch" / "finetune-*" / "started", first)
    with pytest.raises(StageError, match=rf"small: in use by process {first.pid} on .*--wait"):
        run(recipe_file, out)
    assert what_ran(run(recipe_file, out, wait=True)) == []
    assert first.wait(timeout=60) == 0
    first.communicate()


def test_the_parent_imports_torch_only_when_a_stage_to_be_run_needs_a_model(monkeypatch):
    imported = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    data = engine_fakes.FakeDataset(engine_fakes.FakeData(), ())
    detector = engine_fakes.FakeDetector(engine_fakes.FakeConfig(), data)
    pipeline.real_preload(detector, [engine_fakes.FakePack(stage="pack")])
    assert imported == []
    pipeline.real_preload(detector, [engine_fakes.FakeQat(stage="qat")])
    assert imported == ["torch"]


def test_ctrl_c_at_the_moment_at_which_a_stage_ends_is_a_ctrl_c(monkeypatch):
    wait4 = os.wait4

    def interrupted_after_it(child, options):
        wait4(child, options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "wait4", interrupted_after_it)
    child = os.fork()
    if child == 0:
        os._exit(0)
    with pytest.raises(KeyboardInterrupt):
        _wait(child)


def test_the_thread_count_stands_in_the_manifest_and_not_in_the_key(recipe_file, out, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    first = run(recipe_file, out)
    manifests = [json.loads(result.artifact.file("manifest.json").read_text()) for result in first]
    assert {manifest["threads"] for manifest in manifests} == {3}
    assert {open_artifact(result.artifact.path).threads for result in first} == {3}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert what_ran(run(recipe_file, out)) == []


def test_manifests_that_say_nothing_of_threads_are_read_as_before(recipe_file, out):
    path = run(recipe_file, out)[0].artifact.file("manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["threads"], manifest["manifest_digest"]
    path.write_text(json.dumps({**manifest, "manifest_digest": hash_json(manifest)}))
    assert open_artifact(path.parent).threads is None
    assert what_ran(run(recipe_file, out)) == []


@pytest.mark.parametrize("where", ["02_finetune", ".scratch", ".new"])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_links_in_the_place_of_folders_are_no_obstacle_and_what_is_behind_them_stays(recipe_file, out, where, target):
    run(recipe_file, out)
    behind = out / "elsewhere"
    folder = out / "small" / where
    if folder.exists():
        folder.rename(behind)
    else:
        behind.mkdir()
    (behind / "mine.txt").write_text("precious")
    folder.symlink_to(out / target)
    ran = what_ran(run(recipe_file, out, start="finetune"))
    assert ran[0] == "finetune"
    assert (behind / "mine.txt").read_text() == "precious"
    assert damage(out / "small" / "02_finetune") is None
    assert not (out / "small" / "02_finetune").is_symlink()
    assert what_ran(run(recipe_file, out)) == []


def test_links_left_inside_the_folders_of_the_engine_are_removed_and_what_is_behind_them_stays(recipe_file, out):
    run(recipe_file, out)
    behind = out / "elsewhere"
    behind.mkdir()
    (behind / "mine.txt").write_text("precious")
    for place in (".new/02_finetune", ".old/02_finetune", ".old/01_prune_structured"):
        (out / "small" / place).parent.mkdir(exist_ok=True)
        (out / "small" / place).symlink_to(behind)
    assert what_ran(run(recipe_file, out, start="finetune"))
    assert (behind / "mine.txt").read_text() == "precious"


def test_a_file_in_the_place_of_a_stage_is_told_in_one_line_and_stays(recipe_file, out):
    run(recipe_file, out)
    folder = out / "small" / "02_finetune"
    folder.rename(out / "away")
    folder.write_text("precious")
    with pytest.raises(StageError, match=r"02_finetune: is a file, expected the folder of a stage\. Move it away"):
        run(recipe_file, out)
    assert folder.read_text() == "precious"
    folder.unlink()
    assert what_ran(run(recipe_file, out)) == []  # what was made before the file was moved away is kept


@pytest.mark.parametrize("gone", [".", "..", ".scratch", ".new", "01_prune_structured"])
def test_a_folder_removed_while_a_stage_runs_is_one_line_and_the_next_run_works(recipe_file, out, gone):
    process = command(recipe_file, out, "--set", "stages.finetune.sleep_s=1", "--set", "stages.finetune.fault=bug")
    wait_for(out / "small" / ".scratch" / "finetune-*", process)
    shutil.rmtree((out / "small" / gone).resolve())
    _, text = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1
    assert "was removed while it ran. Run the same command again." in text
    assert len(run(recipe_file, out)) == 6


def test_a_lock_removed_while_a_stage_runs_is_made_again_and_the_run_goes_on(recipe_file, out):
    process = command(recipe_file, out, "--set", "stages.finetune.sleep_s=1")
    wait_for(out / "small" / ".scratch" / "finetune-*", process)
    (out / "small" / ".lock").unlink()
    _, text = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert len(text.strip().splitlines()) == 1
    assert ".lock: was removed while a run used the folder; it was made again" in text
    assert what_ran(run(recipe_file, out)) == []


def test_a_lock_that_another_run_has_taken_meanwhile_ends_the_first_in_one_line(recipe_file, out):
    process = command(recipe_file, out, "--set", "stages.finetune.sleep_s=1")
    wait_for(out / "small" / ".scratch" / "finetune-*", process)
    (out / "small" / ".lock").unlink()
    with lock_folder(out / "small"):
        _, text = process.communicate(timeout=60)
    assert process.returncode == 4
    assert len(text.strip().splitlines()) == 1
    assert "another run has it now" in text
    assert what_ran(run(recipe_file, out))[0] == "finetune"
