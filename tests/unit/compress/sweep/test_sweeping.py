"""How a sweep leads its workers: nothing is done twice, what is lost is done again, and files say what came out."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from sweep_files import RECIPE, SWEEP, write_files

from compress.errors import RecipeError, StageError
from compress.recipe.loading import load_recipe
from compress.sweep import sweeping
from compress.sweep.measured import Measured, Score
from compress.sweep.reading import load_sweep
from compress.sweep.sweeping import MOST_LOSSES, Sweeping
from compress.sweep.trial_recipe import LOOK


def score(value):
    drawn = np.full(5, value) + np.arange(5) / 1000
    return Score({"map": value}, {"map": (value - 0.1, value + 0.1)}, {"map": drawn})


class FakeCrew:
    """Ends each order at once, as told: with an answer, or lost."""

    size = 2

    def __init__(self, folder, *, times_apart=False, lose=(), fail=(), stop=(), most=None):
        self.folder, self.times_apart, self.most = folder, times_apart, most
        self.lose, self.fail, self.stop = list(lose), fail, stop
        self.orders, self.running, self.is_closed = [], [], False

    def start(self, order):
        assert len(self.running) < self.size
        if self.most is not None and len(self.orders) >= self.most:
            raise KeyboardInterrupt
        self.running.append(order)
        task = json.loads(order.task.read_text())
        self.orders.append((order.name, task["until"], order.is_timing))

    def wait(self):
        order = self.running.pop()  # the one that began last ends first
        if order.name in self.lose:
            self.lose.remove(order.name)
            return [order]
        task = json.loads(order.task.read_text())
        state = "failed" if order.name in self.fail else "stopped" if order.name in self.stop else "done"
        text = "" if state == "done" else f"because of {state}."
        answer = {"state": state, "text": text, "seconds": 2.0, "cpu_seconds": 1.0, "until": task["until"]}
        (self.folder / "trials" / f"{order.name}.answer.json").write_text(json.dumps(answer))
        return [order]

    def close(self):
        self.is_closed = True
        self.running.clear()


def measured(root, looks):
    """Return what stands for the measurements of a trial: by its bits, as its recipe says."""
    stages = {stage.label: stage for stage in load_recipe(root.with_suffix(".yaml")).stages}
    bits, share = stages["qat"].weight_bit_width, stages["prune_structured"].target.macs
    return Measured(int(1000 * bits * share), score(bits / 10), score(0.65), 10 * share, 20.0)


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    monkeypatch.setattr(sweeping, "read_measured", measured)
    monkeypatch.setattr(sweeping.from_python, "plan", lambda *given, **options: SimpleNamespace(dry_pass=None))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(tmp_path, out, sweep=SWEEP, **how):
    loaded = load_sweep(write_files(tmp_path, sweep))
    crew = FakeCrew(out / "search", **how)
    return Sweeping(loaded, out, crew), crew


def names(crew):
    return [name for name, _, _ in crew.orders]


SMALL = SWEEP.replace("trials: 8", "trials: 4")


def test_a_sweep_ends_with_the_points_that_no_other_one_beats_and_a_recipe_for_each(tmp_path, out):
    job, crew = run(tmp_path, out)
    front = job.run()
    assert sorted(names(crew)) == [*(f"search_{number:03d}" for number in range(8)), "search_recipe"]
    costs = [(point.measured.packed_bytes, -point.measured.score.values["map"]) for point in front.points]
    beaten = [any(x[0] <= y[0] and x[1] <= y[1] and x != y for x in costs) for y in costs]
    assert {point.number for point in front.best} == {n for n, is_beaten in enumerate(beaten) if not is_beaten}
    for point in front.best:
        recipe = load_recipe(out / "search" / "points" / f"{point.name}.yaml")
        assert (recipe.name, len(recipe.stages)) == (point.name, 10)
        assert recipe.stages[5].weight_bit_width == point.values["stages.qat.weight_bit_width"]
    assert crew.is_closed


def test_its_files_hold_the_front_all_trials_and_the_paired_difference_to_the_recipe(tmp_path, out):
    job, _ = run(tmp_path, out, SMALL)
    front = job.run()
    document = json.loads((out / "search" / "front.json").read_text())
    assert document["front"] == [point.number for point in front.best]
    assert [trial["state"] for trial in document["trials"]] == ["done"] * 4
    first = document["trials"][document["front"][0]]
    lost = 100 * (0.6 - first["scores"]["map"])
    assert first["against_baseline"]["map"]["points"] == pytest.approx(lost)
    assert first["against_baseline"]["map"]["interval"] == pytest.approx([lost, lost])
    text = (out / "search" / "front.md").read_text()
    assert "| point | bytes | map (95 %) | lost against the recipe | weight_bit_width | macs |" in text
    assert re.search(r"\| recipe \| 4.20 kB \| 0.600 \(0.500 to 0.700\) \| — \| — \| — \|", text)
    assert front.text().startswith("point")


def test_a_sweep_that_was_stopped_goes_on_and_does_nothing_twice(tmp_path, out):
    calm = run(tmp_path, tmp_path / "calm")[0].run()
    job, first = run(tmp_path, out, most=5)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert first.is_closed
    job, second = run(tmp_path, out)
    again = job.run()
    ended = {path.name.split(".")[0] for path in (out / "search" / "trials").glob("*.answer.json")}
    assert len(ended) == 9
    assert len(set(names(first)) & set(names(second))) <= FakeCrew.size  # those that ran when it was stopped
    assert [point.values for point in again.best] == [point.values for point in calm.best]
    job, third = run(tmp_path, out)
    assert [point.values for point in job.run().best] == [point.values for point in calm.best]
    assert third.orders == []


def test_a_trial_whose_worker_is_lost_is_taken_over_by_another(tmp_path, out):
    job, crew = run(tmp_path, out, SMALL, lose=["search_001"])
    assert [point.state for point in job.run().points] == ["done"] * 4
    assert names(crew).count("search_001") == 2


def test_a_trial_that_is_lost_again_and_again_fails_and_the_others_go_on(tmp_path, out):
    job, crew = run(tmp_path, out, SMALL, lose=["search_001"] * 9)
    points = job.run().points
    assert [point.state for point in points] == ["done", "failed", "done", "done"]
    assert names(crew).count("search_001") == MOST_LOSSES
    assert f"its worker died {MOST_LOSSES} times without an answer" in points[1].text


def test_trials_that_fail_or_are_given_up_are_told_with_their_reason(tmp_path, out):
    job, _ = run(tmp_path, out, SMALL, fail=["search_000"], stop=["search_002"])
    front = job.run()
    assert [point.state for point in front.points] == ["failed", "done", "stopped", "done"]
    assert "4 trials in" in front.summary()
    assert "2 finished, 1 given up early, 1 failed" in front.summary()
    assert "- 0, failed: because of failed." in (out / "search" / "front.md").read_text()


def test_without_any_trial_that_came_through_there_is_no_front(tmp_path, out):
    job, _ = run(tmp_path, out, SMALL, fail=[f"search_{number:03d}" for number in range(4)])
    with pytest.raises(StageError, match="no trial came through, so there is no front"):
        job.run()


def test_on_a_cluster_what_is_timed_is_an_order_of_its_own(tmp_path, out):
    sweep = SMALL.replace("[bytes, map]", "[ms, map]")
    job, crew = run(tmp_path, out, sweep, times_apart=True, lose=["search_000"])
    job.run()
    orders = [(until, is_timing) for name, until, is_timing in crew.orders if name == "search_000"]
    assert orders == [(LOOK, False), (LOOK, False), (None, True)]


def test_the_hours_end_a_sweep_and_a_larger_budget_goes_on(tmp_path, out, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sweeping.time, "monotonic", lambda: now[0])
    job, crew = run(tmp_path, out, SWEEP.replace("trials: 8", "trials: 8, hours: 0.01"))
    ended = crew.wait
    crew.wait = lambda: (now.__setitem__(0, now[0] + 10), ended())[1]
    front = job.run()
    assert 0 < len(crew.orders) < 9
    assert all(point.measured for point in front.points)
    job, rest = run(tmp_path, out)
    assert len(job.run().points) == 8
    assert len(crew.orders) + len(rest.orders) == 9


def test_another_sweep_under_the_same_name_is_refused(tmp_path, out):
    run(tmp_path, out, SMALL)[0].run()
    with pytest.raises(RecipeError, match="in which space differed"):
        run(tmp_path, out, SMALL.replace("[3, 4, 5]", "[3, 4]"))[0].run()
    shutil.rmtree(out / "search")
    run(tmp_path, out, SMALL.replace("[3, 4, 5]", "[3, 4]"))[0].run()


def test_the_recipe_as_it_stands_may_be_left_out(tmp_path, out):
    job, crew = run(tmp_path, out, SMALL + "baseline: false\n")
    assert job.run().baseline is None
    assert "search_recipe" not in names(crew)
    assert (tmp_path / "small.yaml").read_text() == RECIPE
