import engine_fakes
import pytest

from compress.recipe.plan import make_plan, stage_table

pytestmark = pytest.mark.usefixtures("fake_stages")


def plan_of(*entries):
    stages = [engine_fakes.TABLE[entry["stage"]].model_validate(entry) for entry in entries]
    plan, problems = make_plan(stages)
    assert problems == []
    return {planned.label: planned for planned in plan}


def test_without_a_train_stage_the_checkpoint_is_loaded_first_as_float():
    plan = plan_of({"stage": "export_onnx"})
    assert list(plan) == ["float", "export_onnx"]
    assert plan["float"].origin is None
    assert plan["export_onnx"].inputs == {"source": "float"}
    assert plan["export_onnx"].folder_name == "01_export_onnx"


def test_float_names_the_trained_model_when_the_recipe_trains():
    plan = plan_of(
        {"stage": "train"}, {"stage": "qat"}, {"stage": "export_onnx", "from": "float"}, {"stage": "evaluate"}
    )
    assert plan["export_onnx"].inputs == {"source": "train"}
    assert plan["export_onnx"].lineage == ("train", "export_onnx")
    assert plan["evaluate"].inputs == {"source": "export_onnx"}


def test_a_stage_takes_the_latest_artifact_of_a_kind_that_it_needs():
    plan = plan_of(
        {"stage": "export_onnx", "name": "float_onnx"},
        {"stage": "prune_structured", "sparsity": 0.5},
        {"stage": "finetune", "distill": {"teacher": "float"}},
        {"stage": "export_onnx"},
        {"stage": "pack"},
        {"stage": "benchmark", "models": ["float_onnx", "pack"]},
    )
    assert plan["finetune"].inputs == {"source": "prune_structured", "float": "float"}
    assert plan["pack"].inputs == {"source": "export_onnx"}
    assert plan["pack"].lineage == ("float", "prune_structured", "finetune", "export_onnx", "pack")
    assert plan["benchmark"].inputs == {"float_onnx": "float_onnx", "pack": "pack"}


def test_a_report_reads_every_earlier_artifact():
    plan = plan_of({"stage": "export_onnx"}, {"stage": "report"})
    assert plan["report"].inputs == {"float": "float", "export_onnx": "export_onnx"}


def test_a_full_report_adds_a_score_directly_after_each_model_that_has_none():
    plan = plan_of(
        {"stage": "evaluate", "name": "mine", "split": "test"},
        {"stage": "evaluate", "name": "qat_score", "split": "val"},
        {"stage": "qat"},
        {"stage": "export_onnx"},
        {"stage": "report", "every_stage": True, "split": "test"},
        {"stage": "pack"},
    )
    assert list(plan) == [
        "float", "mine", "qat_score", "qat", "qat_score_2", "export_onnx", "export_onnx_score", "report", "pack",
    ]  # fmt: skip
    assert plan["qat_score_2"].inputs == {"source": "qat"}
    assert plan["qat_score_2"].stage.split == "test"
    assert "qat_score_2" in plan["report"].inputs


def test_a_branch_that_went_through_a_forbidden_stage_is_refused():
    class AfterPruning(engine_fakes.FakeFinetune):
        NOT_AFTER = ("prune_structured",)

    stages = [
        engine_fakes.FakePrune(stage="prune_structured", sparsity=0.5),
        AfterPruning(stage="finetune"),
    ]
    problems = make_plan(stages)[1]
    assert [problem.origin for problem in problems] == [1]
    assert problems[0].text.startswith("finetune may not follow prune_structured, and its input 'prune_structured'")


def test_the_table_of_stages_names_what_each_needs_and_makes():
    rows = stage_table(engine_fakes.TABLE).splitlines()
    assert "| `prune_structured` | model | model | `qat` |" in rows
    assert "| `load_float` | - | model | - |" in rows
