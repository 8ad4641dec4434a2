"""A goal: stages that are planned from limits, attempts that follow from what was seen, and one reading of 'test'."""

import textwrap

import numpy as np
import pytest
from pydantic import ValidationError

from compress.artifact import Artifact
from compress.cli.main import main
from compress.engine import goal as engine
from compress.engine.decisions import Result
from compress.engine.goal import Seen, choose, next_attempt
from compress.engine.ranks import follow
from compress.errors import RecipeError, StageError
from compress.kind import Kind
from compress.metrics.loss import Loss
from compress.metrics.paired import save_resampled
from compress.recipe.goal import Attempt, Goal
from compress.recipe.loading import load_recipe
from compress.recipe.plan import make_plan

GOALS = {
    "size": "{packed_bytes: 330kB}",
    "time": "{speedup: 2}",
    "both": "{ratio: 30, latency_ms: 20, max_drop: {map: 0.5, map50: 1}}",
    "points": "{max_drop: {map: 0.5}}",
}


@pytest.fixture
def goal_file(tmp_path):
    """Return a function that writes a recipe with a goal."""

    def write(goal: str, stages: str = "[{stage: train, training: {epochs: 1}}]") -> object:
        text = f"""
            format_version: 2
            name: aimed
            detector: {{plugin: dcfl, backbone: resnet18, base_channels: 16, channels: 32, classes: [ship]}}
            data: {{format: dota, root: {tmp_path}, image_size: [64, 64]}}
            defaults: {{training: {{batch_size: 3}}}}
            goal: {goal}
            stages: {stages}
            """
        path = tmp_path / "goal.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.mark.parametrize("name", GOALS)
def test_every_goal_gives_a_legal_plan_for_every_attempt(goal_file, name):
    path = goal_file(GOALS[name])
    goal = load_recipe(path).goal
    first = Attempt.first(goal)
    attempts = [first, first.longer(), first.longer().easier(goal)]
    for number in (1, 2, 3):
        recipe = load_recipe(path, attempts=attempts[:number])
        plan, problems = make_plan(recipe.stages)
        assert problems == []
        by_label = {one.label: one for one in plan}
        chosen = attempts[number - 1]
        assert by_label["report"].stage.final == chosen.label("pack")
        assert by_label["pack_test"].inputs["source"] == chosen.label("pack")
        assert [one.label for one in plan if one.stage.stage == "evaluate" and one.stage.split == "test"] == [
            "float_test",
            "pack_test",
        ]
        assert ("prune_structured" in by_label) == bool(goal.time)
        pruned_at = chosen if name == "time" and number == 3 else first
        assert by_label[chosen.label("qat")].inputs["source"] == (pruned_at.label("finetune") if goal.time else "train")
        assert all(one.stage.training.batch_size == 3 for one in plan if hasattr(one.stage, "training"))
    qat = {one.label: one.stage for one in make_plan(recipe.stages)[0] if one.stage.stage == "qat"}
    assert [one.training.epochs for one in qat.values()] == [12, 24, 12]
    if name == "size":
        assert [int(one.rate.packed_bytes) for one in qat.values()] == [330_000, 330_000, 495_000]


def test_a_network_is_pruned_anew_only_for_another_time(goal_file):
    path = goal_file(GOALS["time"])
    goal = load_recipe(path).goal
    first = Attempt.first(goal)
    recipe = load_recipe(path, attempts=[first, first.longer(), first.longer().easier(goal)])
    assert [stage.label for stage in recipe.stages if stage.stage == "prune_structured"] == [
        "prune_structured",
        "prune_structured_3",
    ]
    assert recipe.stages[-1].require.min_speedup == 2


def test_attempts_change_no_key_of_what_was_made(goal_file):
    """The stages of an earlier attempt come from the cache when the next one is planned."""
    path = goal_file(GOALS["both"])
    goal = load_recipe(path).goal
    first = Attempt.first(goal)
    alone = {stage.label: stage for stage in load_recipe(path).stages}
    both = {stage.label: stage for stage in load_recipe(path, attempts=[first, first.longer()]).stages}
    for label in set(alone) - {"report", "pack_test"}:
        assert both[label].key_fields() == alone[label].key_fields()


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("{packed_bytes: 1MB, ratio: 3}", "packed_bytes and ratio limit the same thing"),
        ("{latency_ms: 3, speedup: 3}", "latency_ms and speedup limit the same thing"),
        ("{rato: 3}", "unknown field 'rato'. Did you mean 'ratio'"),
        ("{max_drop: {mapp: 1}}", "mapp"),
        ("{packed_bytes: 0}", "packed_bytes"),
        ("[1]", "goal"),
    ],
)
def test_a_wrong_goal_is_told_once_and_at_its_place(goal_file, goal, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(goal_file(goal))
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)
    assert "goal.yaml:7:" in str(caught.value)


def test_stages_beside_a_goal_only_make_the_float_model(goal_file):
    with pytest.raises(
        RecipeError, match=r"stages\[1\]: 'qat': with a `goal` the stages are planned from it"
    ) as caught:
        load_recipe(goal_file(GOALS["size"], "[{stage: train, training: {epochs: 1}}, {stage: qat}]"))
    assert len(caught.value.problems) == 1


def test_a_goal_is_written_out_as_a_recipe_that_can_be_run(goal_file, tmp_path, capfd):
    path = goal_file(GOALS["both"])
    assert main(["recipes", "expand", str(path), "--set", "goal.ratio=20", "-o", str(tmp_path / "all.yaml")]) == 0
    written = load_recipe(tmp_path / "all.yaml")
    planned = load_recipe(path, ["goal.ratio=20"])
    assert written.goal is None
    assert [stage.model_dump() for stage in written.stages] == [stage.model_dump() for stage in planned.stages]
    assert written.detector == planned.detector
    (tmp_path / "all.yaml").write_text("mine")
    assert main(["recipes", "expand", str(path), "-o", str(tmp_path / "all.yaml")]) == 2
    assert "--force" in capfd.readouterr().err


def seen(number, *, lost=0.0, size=-0.01, time=-0.01, epochs=12):
    attempt = Attempt(number, epochs, {"packed_bytes": 1000.0}, {"speedup": 2.0})
    return Seen(attempt, (Loss("map", lost, (lost - 1, lost + 1), 0.5),), 1000, 10.0, size, time)


GOAL = Goal(packed_bytes=1000, speedup=2, attempts=4)


def test_what_holds_ends_the_attempts():
    assert next_attempt(GOAL, [seen(1)]) is None
    assert next_attempt(GOAL, [seen(1, lost=0.5, time=0.0)]) is None


def test_an_attempt_holds_what_the_report_will_hold_it_to():
    assert not seen(1, time=0.001).holds
    assert next_attempt(GOAL, [seen(1, time=0.001)]).time["speedup"] > 2


def test_too_much_lost_is_trained_longer_then_asked_less():
    longer = next_attempt(GOAL, [seen(1, lost=2)])
    assert (longer.number, longer.epochs, longer.size) == (2, 24, {"packed_bytes": 1000})
    easier = next_attempt(GOAL, [seen(1, lost=2), seen(2, lost=1, epochs=24)])
    assert (easier.number, easier.epochs, easier.size, easier.time) == (3, 12, {"packed_bytes": 1500}, {"speedup": 2.0})
    unsized = Attempt(2, 12, {}, {"latency_ms": 20.0}).easier(GOAL)
    assert unsized.time == {"latency_ms": 25.0}


def test_too_slow_is_aimed_at_less_time_by_what_it_missed():
    quicker = next_attempt(GOAL, [seen(1, time=0.1)])
    assert quicker.time["speedup"] == pytest.approx(2 * 1.1 * 1.02, rel=1e-3)
    assert quicker.size == {"packed_bytes": 1000}


def test_attempts_end():
    tried = [seen(number, lost=3) for number in (1, 2, 3, 4)]
    assert next_attempt(GOAL, tried) is None


def test_the_best_that_holds_is_chosen_else_what_keeps_the_points_else_what_loses_least():
    assert choose([seen(1, lost=0.4), seen(2, lost=0.1), seen(3, lost=0.0, size=0.2)]).attempt.number == 2
    assert choose([seen(1, lost=2), seen(2, lost=0.2, size=0.5), seen(3, lost=0.4, size=0.1)]).attempt.number == 3
    assert choose([seen(1, lost=2), seen(2, lost=1), seen(3, lost=3, size=0.5)]).attempt.number == 2


class FakeEngine:
    """Runs no stage: makes artifacts whose scores follow a table of what each attempt loses."""

    def __init__(self, folder, losses):
        self.folder, self.losses, self.runs, self.starts = folder, losses, [], []

    def run(self, recipe, out, *, until=None, start=None, **_):
        plan, _ = make_plan(recipe.stages)
        self.starts.append(start)
        labels = [one.label for one in plan]
        labels = labels[: labels.index(until) + 1] if until else labels
        self.runs.append(labels)
        return [Result(self.artifact(label), False) for label in labels]

    def artifact(self, label):
        folder = self.folder / label
        folder.mkdir(parents=True, exist_ok=True)
        number = int(label.split("_")[1]) if label.split("_")[1:2] and label.split("_")[1].isdigit() else 1
        facts = {"parameters_bytes": 40_000}
        if label.endswith("_val"):
            value = 0.4 if label == "float_val" else 0.4 - self.losses[number - 1] / 100
            save_resampled(folder, np.full(10, value), "map")
            facts = {"scores": {"map": value}}
        if label.startswith("benchmark"):
            pack = label.replace("benchmark", "pack")
            models = {"float_onnx": {"latency_ms_p50": 20.0}, pack: {"latency_ms_p50": 8.0}}
            facts = {"reference": "float_onnx", "models": models}
        if label.startswith("pack") and not label.endswith(("_val", "_test")):
            (folder / "model.krimp").write_bytes(bytes(1000))
        return Artifact(folder, label, label, Kind.SCORES, "", "", facts, 0.0, 0, (label,))


@pytest.mark.parametrize(
    ("losses", "chosen", "attempts"), [([0.2], 1, 1), ([3.0, 0.4], 2, 2), ([3.0, 2.0, 0.1], 3, 3), ([3, 2, 1, 0], 3, 3)]
)
def test_attempts_go_on_until_one_holds_and_test_is_read_once_of_the_chosen(
    goal_file, tmp_path, monkeypatch, losses, chosen, attempts
):
    path = goal_file("{ratio: 40, speedup: 2}")
    fake = FakeEngine(tmp_path / "made", losses)
    monkeypatch.setattr(engine.pipeline, "run", fake.run)
    results = engine.run(lambda tried, best: load_recipe(path, attempts=tried, chosen=best), tmp_path)
    assert len(fake.runs) == attempts + 1
    assert all(not any(label.endswith("_test") for label in labels) for labels in fake.runs[:-1])
    labels = fake.runs[-1]
    assert labels[-1] == results[-1].artifact.label == "report"
    recipe = load_recipe(path, attempts=[Attempt(n, 12, {}, {}) for n in range(1, attempts + 1)])
    assert recipe.stages[-1].stage == "report"
    assert f"pack{'' if chosen == 1 else f'_{chosen}'}" in labels


@pytest.mark.parametrize(
    ("start", "starts"), [("qat", ["qat", None, None]), ("report", [None, None, "report"]), (None, [None, None, None])]
)
def test_what_is_asked_to_run_again_runs_once(goal_file, tmp_path, monkeypatch, start, starts):
    path, fake = goal_file("{ratio: 40}"), FakeEngine(tmp_path / "made", [3, 0])
    monkeypatch.setattr(engine.pipeline, "run", fake.run)
    engine.run(lambda tried, best: load_recipe(path, attempts=tried, chosen=best), tmp_path, start=start)
    assert fake.starts == starts


def test_the_stages_that_a_goal_becomes_are_said(goal_file, tmp_path, monkeypatch, caplog):
    path, fake = goal_file("{latency_ms: 20}"), FakeEngine(tmp_path / "made", [0])
    monkeypatch.setattr(engine.pipeline, "run", fake.run)
    with caplog.at_level("INFO", logger="krimp"):
        engine.run(lambda tried, best: load_recipe(path, attempts=tried, chosen=best), tmp_path)
    assert "target: {latency_ms: 19.0476}" in caplog.text  # pruning aims 5 % below: processes differ by so much
    assert "max_latency_ms: 20.0" in caplog.text


def test_until_makes_the_first_attempt_only(goal_file, tmp_path, monkeypatch):
    path, fake = goal_file(GOALS["size"]), FakeEngine(tmp_path, [0])
    monkeypatch.setattr(engine.pipeline, "run", fake.run)
    engine.run(lambda tried, best: load_recipe(path, attempts=tried, chosen=best), tmp_path, until="qat")
    assert [labels[-1] for labels in fake.runs] == ["qat"]


def test_a_metric_that_val_does_not_measure_is_refused(goal_file, tmp_path, monkeypatch):
    path, fake = goal_file(GOALS["size"]), FakeEngine(tmp_path, [0])
    monkeypatch.setattr(engine.pipeline, "run", fake.run)
    made = fake.artifact
    monkeypatch.setattr(
        fake,
        "artifact",
        lambda label: made(label) if not label.endswith("pack_val") else _without_map(made(label)),
    )
    with pytest.raises(StageError, match=r"max_drop\.map cannot be measured on split 'val'"):
        engine.run(lambda tried, best: load_recipe(path, attempts=tried, chosen=best), tmp_path)


def _without_map(artifact):
    artifact.facts["scores"]["map"] = None
    return artifact


def test_ranks_of_one_training_cannot_make_attempts(goal_file, tmp_path):
    with pytest.raises(StageError, match="krimp recipes expand"):
        follow(load_recipe(goal_file(GOALS["size"])), tmp_path)


def test_limits_are_of_one_kind_each():
    with pytest.raises(ValidationError):
        Goal(attempts=0)
    assert Goal(packed_bytes="330kB").size == {"packed_bytes": 330_000}
    assert Goal(speedup=2).max_drop.limits == {"map": 0.5}
