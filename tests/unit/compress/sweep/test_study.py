"""What is chosen depends on the file and on what earlier batches came to: not on kills, restarts or who was faster."""

import pytest

from compress.errors import RecipeError
from compress.sweep.model import Sweep
from compress.sweep.study import Study

SPACE = {"bits": [4, 5, 6], "share": {"low": 0.1, "high": 0.9}, "count": {"low": 1, "high": 9, "step": 2}}


def sweep(kind, trials=10, space=SPACE, **more):
    fields = {"name": "a", "recipe": "a.yaml", "space": space, "objectives": ["bytes", "map"]}
    return Sweep.model_validate({**fields, "budget": {"trials": trials}, "sampler": {"kind": kind, "seed": 3}, **more})


def opened(folder, settings, identity=None):
    return Study(folder / "study.journal", settings, identity or {"space": "1"})


def objectives(values):
    return [values["bits"] * 10 + values["count"], values["bits"] * values["share"]]


def search(folder, settings, *, forget_after=None, order=1):
    """Bring a study to its end; with `forget_after` it is opened anew after so many trials were told."""
    study, told = opened(folder, settings), 0
    while trials := study.fill_batch():
        for trial in trials:
            study.tell(trial.number, "done", objectives(trial.values))
            told += 1
            if forget_after and told % forget_after == 0:
                study = opened(folder, settings)
                break
    return study


@pytest.mark.parametrize("kind", ["nsga2", "tpe"])
@pytest.mark.parametrize("forget_after", [1, 3])
def test_a_search_that_is_stopped_anywhere_chooses_what_an_undisturbed_one_does(tmp_path, kind, forget_after):
    (tmp_path / "calm").mkdir()
    calm = search(tmp_path / "calm", sweep(kind))
    again = search(tmp_path, sweep(kind), forget_after=forget_after)
    assert [trial.values for trial in again.trials] == [trial.values for trial in calm.trials]
    assert again.best() == calm.best()
    assert len(calm.trials) == 10


def test_generations_learn_from_those_before(tmp_path):
    study = search(tmp_path, sweep("nsga2", trials=40, space={"bits": [4, 5, 6], "share": {"low": 0, "high": 1}}
                                   | {"count": {"low": 1, "high": 50}}))  # fmt: skip
    batches = {trial.batch: [] for trial in study.trials}
    for trial in study.trials:
        batches[trial.batch].append(trial.values["count"])
    means = [sum(counts) / len(counts) for counts in batches.values()]
    assert [len(counts) for counts in batches.values()] == [10, 10, 10, 10]
    assert means[-1] < means[0] / 1.5


def test_a_grid_is_walked_once_and_ends(tmp_path):
    space = {"bits": [4, 5], "share": {"low": 0.2, "high": 0.6, "step": 0.2}, "count": [1, {"deep": True}]}
    study, seen = opened(tmp_path, sweep("grid", trials=100, space=space)), []
    while trials := study.fill_batch():
        for trial in trials:
            seen.append(trial.values)
            study.tell(trial.number, "done", [1.0, 1.0])
    assert len(seen) == 12 == study.most
    assert all(seen.count(values) == 1 for values in seen)
    assert {"bits": 5, "share": 0.6, "count": {"deep": True}} in seen


def test_a_trial_that_was_chosen_and_not_told_is_open_again(tmp_path):
    first = opened(tmp_path, sweep("nsga2")).fill_batch()
    assert opened(tmp_path, sweep("nsga2")).fill_batch() == first
    assert len(first) == 4


def test_what_a_kill_left_half_chosen_or_half_written_is_put_right(tmp_path):
    study = opened(tmp_path, sweep("tpe", trials=3))
    study._study.ask()  # a number, and then the machine went down
    with (tmp_path / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker')
    again = opened(tmp_path, sweep("tpe", trials=3))
    (trial,) = again.fill_batch()
    again.tell(trial.number, "done", objectives(trial.values))
    assert [one.state for one in opened(tmp_path, sweep("tpe", trials=3)).trials] == ["done"]
    assert trial.values == opened_fresh(tmp_path / "fresh").fill_batch()[0].values


def opened_fresh(folder):
    folder.mkdir()
    return opened(folder, sweep("tpe", trials=3))


def test_trials_that_failed_or_were_given_up_count_and_are_not_best(tmp_path):
    study = opened(tmp_path, sweep("nsga2", trials=4))
    for trial, state in zip(study.fill_batch(), ("done", "stopped", "failed", "done"), strict=True):
        study.tell(trial.number, state, [float(trial.number), 0.5] if state == "done" else None)
    assert study.fill_batch() == []
    assert [trial.state for trial in study.trials] == ["done", "stopped", "failed", "done"]
    assert study.best() == [0]


def test_a_larger_budget_goes_on_with_generations_as_large_as_before(tmp_path):
    search(tmp_path, sweep("nsga2", trials=8))
    study = opened(tmp_path, sweep("nsga2", trials=40))
    assert len(study.fill_batch()) == 4
    assert study.seconds == 0
    study.note_seconds(7.5)
    assert opened(tmp_path, sweep("nsga2", trials=40)).seconds == 7.5


def test_another_search_under_the_same_name_is_refused_and_what_differs_is_named(tmp_path):
    opened(tmp_path, sweep("tpe"), {"space": "1", "the recipe": "a"})
    with pytest.raises(RecipeError, match="in which the recipe differed"):
        opened(tmp_path, sweep("tpe"), {"space": "1", "the recipe": "b"})
