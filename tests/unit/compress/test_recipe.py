import json
import textwrap

import engine_fakes
import pytest

from compress.errors import DetectorError, RecipeError
from compress.recipe.loading import load_recipe
from compress.recipe.schema import json_schema

HEAD = """\
format_version: 1
name: small
detector: {plugin: "engine_fakes:FakeDetector", channels: 4}
data: {image_size: [32, 48]}
"""


pytestmark = pytest.mark.usefixtures("fake_stages")


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "a.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write_text


def problems_of(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return [problem.replace(f"{path}:", "") for problem in caught.value.problems]


def stages_problems(write, *lines):
    """Line 6 is the first stage."""
    return problems_of(write(HEAD + "stages:\n" + "\n".join(f"  - {line}" for line in lines)))


def test_a_right_recipe_is_read_with_the_defaults_of_the_plugin(write):
    recipe = load_recipe(write(HEAD + "stages: [{stage: prune_structured, sparsity: 0.5}]"))
    assert recipe.detector == {"plugin": engine_fakes.NAME, "channels": 4, "backbone": "small", "checkpoint": None}
    assert recipe.data["image_size"] == [32, 48]
    assert recipe.stages[0].sparsity == 0.5
    assert recipe.device == "auto"
    assert recipe.path.name == "a.yaml"


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file(write):
    path = write("""\
        format_version: 1
        name: small
        sede: 3
        detector: {plugin: "engine_fakes:FakeDetector", chanels: 4, backbone: smal}
        data: {image_size: [32]}
        stages:
          - {stage: prune_structured, sparsty: 0.5}
          - {stage: prune_structured, name: again, sparsity: 1.5, schedule: cubik}
          - {stage: qatt}
          - {stage: qat, bit_width: "7"}
        """)
    found = problems_of(path)
    assert [problem.split(" ")[0] for problem in found] == [
        "3:1:", "4:49:", "4:71:", "5:20:", "7:5:", "7:31:", "8:54:", "8:69:", "9:13:", "10:29:"
    ]  # fmt: skip
    assert found[0] == "3:1: sede: unknown field 'sede'. Did you mean 'seed'?"
    assert found[1].endswith("detector.chanels: unknown field 'chanels'. Did you mean 'channels'?")
    assert found[2].endswith("detector.backbone: 'smal': expected 'small' or 'large'. Did you mean 'small'?")
    assert "data.image_size" in found[3]
    assert found[4].endswith("stages[0]: required field 'sparsity' is missing. It is: Share of zeros.")
    assert found[5].endswith("stages[0].sparsty: unknown field 'sparsty'. Did you mean 'sparsity'?")
    assert found[6].endswith("stages[1].sparsity: 1.5: expected less than 1.")
    assert "Did you mean 'cubic'?" in found[7]
    assert found[8].endswith("stages[2].stage: there is no stage 'qatt'. Did you mean 'qat'?")
    assert found[9].endswith("stages[3].bit_width: '7': expected a valid integer.")


def test_keys_given_twice_are_all_named_with_both_lines(write):
    path = write(HEAD + "name: other\nstages:\n  - {stage: qat, bit_width: 6, bit_width: 7}\n")
    assert problems_of(path) == [
        "5:1: name: this field is given twice (first on line 2). Remove one.",
        "7:32: stages[0].bit_width: this field is given twice (first on line 7). Remove one.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "1:6: not valid YAML: expected ',' or ']'"),
        ("a: b: c", "1:5: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "2:1: not valid YAML: found character '\\t'"),
        ("", "1:1: expected a mapping with the fields format_version, name"),
        ("- 1", "1:1: expected a mapping"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_place(write, text, expected):
    assert problems_of(write(text))[0].startswith(expected)


def test_a_missing_file_names_its_neighbour(write):
    path = write(HEAD)
    with pytest.raises(RecipeError, match=r"b\.yaml: there is no such file\. Did you mean 'a\.yaml'\?"):
        load_recipe(path.with_name("b.yaml"))


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RecipeError, match="cannot be read as UTF-8"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("", "1:1: stages: required field 'stages' is missing"),
        ("stages: []", "5:1: stages: this list is empty"),
        ("stages: [3]", "5:10: stages[0]: required field 'stage' is missing"),
        ("stages: [{name: x}]", "5:10: stages[0]: required field 'stage' is missing"),
    ],
)
def test_a_recipe_without_stages_is_refused(write, stages, expected):
    assert problems_of(write(HEAD + stages))[0].startswith(expected)


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_numbers_that_are_not_finite_are_refused(write, number):
    text = HEAD.replace("{image_size: [32, 48]}", f"{{image_size: [32, 48], x: {number}}}")
    assert f"4:33: data.x: '{number}': expected a finite number." in problems_of(write(text))


def test_yaml_types_are_those_of_yaml_1_2(write):
    found = stages_problems(write, "{stage: qat, bit_width: true}", "{stage: finetune, epochs: 1e0}")
    assert found[0] == "6:29: stages[0].bit_width: True: expected a valid integer."
    recipe = load_recipe(write(HEAD + "stages: [{stage: prune_structured, sparsity: 1e-4}]"))
    assert recipe.stages[0].sparsity == 1e-4


def test_overrides_reach_fields_by_index_and_by_label(write):
    path = write(HEAD + "stages:\n  - {stage: qat, name: q}\n  - {stage: finetune, name: f, from: float}")
    recipe = load_recipe(path, ["seed=5", "stages.q.bit_width=4", "stages[1].epochs=9", "data.root=/x"])
    assert (recipe.seed, recipe.stages[0].bit_width, recipe.stages[1].epochs) == (5, 4, 9)
    assert recipe.data["root"] == "/x"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("data.root=/a=b c", lambda recipe: recipe.data["root"] == "/a=b c"),
        ('data.root="2024"', lambda recipe: recipe.data["root"] == "2024"),
        ("data.root=null", lambda recipe: recipe.data["root"] is None),
        ("data.root=", lambda recipe: recipe.data["root"] is None),
        ("data.image_size=[32, 48]", lambda recipe: recipe.data["image_size"] == [32, 48]),
        ("data.ignore=[a, b]", lambda recipe: recipe.data["ignore"] == ["a", "b"]),
        ("detector={plugin: 'engine_fakes:FakeDetector', channels: 3}", lambda r: r.detector["channels"] == 3),
        ("stages.f.distill={teacher: float}", lambda recipe: recipe.stages[1].distill.teacher == "float"),
        ("stages.f.distill.teacher=float", lambda recipe: recipe.stages[1].distill.weight == 1.0),
        ("stages.f.distill=null", lambda recipe: recipe.stages[1].distill is None),
        ("stages.f.sleep_s=1e-3", lambda recipe: recipe.stages[1].sleep_s == 0.001),
        ("stages[1]={stage: finetune, epochs: 4, from: float}", lambda recipe: recipe.stages[1].epochs == 4),
        ("stages=[{stage: qat}]", lambda recipe: len(recipe.stages) == 1),
    ],
)
def test_values_of_every_kind_can_be_set(write, override, read):
    path = write(HEAD + "stages:\n  - {stage: qat, name: q}\n  - {stage: finetune, name: f, from: float}")
    assert read(load_recipe(path, [override]))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dta.root=/x", "--set dta.root=/x: dta: unknown field 'dta'. Did you mean 'data'?"),
        ("data.rot=/x", "--set data.rot=/x: data.rot: unknown field 'rot'. Did you mean 'root'?"),
        ("stages.qta.bit_width=4", "--set stages.qta.bit_width=4: stages: there is no entry named 'qta'. Did you mean"),
        ("stages[7].x=4", "--set stages[7].x=4: stages: there is no entry 7. The list has 1, counted from 0."),
        ("name.x=4", "--set name.x=4: name: 'small' has no field 'x': it is not a mapping."),
        ("seed", "--set seed: not an override. Expected path=value"),
        ("seed=[", "--set seed=[: not valid YAML:"),
        ("data.root=2024", '--set data.root=2024: data.root: 2024: expected text. Put it in quotes: "2024".'),
        ("name=../x", "--set name=../x: name: '../x': cannot name a folder. Expected letters"),
        ("stages.qat.bit_width=40", "--set stages.qat.bit_width=40: stages[0].bit_width: 40: expected less than or"),
    ],
)
def test_wrong_overrides_are_named_with_the_argument(write, override, expected):
    path = write(HEAD + "stages: [{stage: qat}]")
    assert problems_of(path, override)[0].startswith(expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["{stage: qat}", "{stage: prune_structured, sparsity: 0.5}"],
            "7:5: stages[1]: prune_structured needs model, but the latest model, 'qat', is quantized. "
            "Put prune_structured before 'qat', or name its input with `from:`.",
        ),
        (
            ["{stage: pack}"],
            "6:5: stages[0]: pack needs onnx, and no earlier stage makes one. Put export_onnx before it.",
        ),
        (
            ["{stage: qat}", "{stage: finetune, from: qat}"],
            "7:29: stages[1].from: finetune needs model, but 'qat' makes quantized.",
        ),
        (
            ["{stage: export_onnx}", "{stage: pack, from: exprt_onnx}"],
            "7:25: stages[1].from: no earlier stage is named 'exprt_onnx'. Did you mean 'export_onnx'?",
        ),
        (
            ["{stage: evaluate, from: qat}", "{stage: qat}"],
            "6:29: stages[0].from: stage 'qat' comes later in the list. Name an earlier one, or move it.",
        ),
        (["{stage: evaluate, from: evaluate}"], "6:29: stages[0].from: 'evaluate' names this stage itself."),
        (
            ["{stage: finetune, distill: {teacher: flaot}}"],
            "6:42: stages[0].distill.teacher: no earlier stage is named 'flaot'. Did you mean 'float'?",
        ),
        (
            ["{stage: benchmark, models: [float, pakc]}"],
            "6:40: stages[0].models[1]: no earlier stage is named 'pakc'.",
        ),
        (
            ["{stage: evaluate}", "{stage: evaluate}"],
            "7:5: stages[1]: the name 'evaluate' is used twice (first by stages[0]).",
        ),
        (
            ["{stage: evaluate, name: a}", "{stage: qat, name: a}"],
            "7:24: stages[1].name: the name 'a' is used twice (first by stages[0]).",
        ),
        (["{stage: qat, name: float}"], "6:24: stages[0].name: the name 'float' is reserved."),
        (["{stage: qat, name: a/b}"], "6:24: stages[0].name: 'a/b': cannot name a folder."),
        (
            ["{stage: evaluate}", "{stage: train}"],
            "6:5: stages[0]: evaluate needs model or quantized or onnx or packed, and no earlier stage makes one.",
        ),
    ],
)
def test_an_illegal_order_is_refused_with_its_line(write, lines, expected):
    assert stages_problems(write, *lines)[0].startswith(expected)


def test_orders_and_fields_are_reported_in_the_same_pass(write):
    found = stages_problems(write, "{stage: qat, bitwidth: 3}", "{stage: prune_structured, sparsity: 0.5}")
    assert len(found) == 2
    assert "unknown field 'bitwidth'" in found[0]
    assert "Put prune_structured before 'qat'" in found[1]


def test_a_branch_from_an_earlier_model_is_legal(write):
    text = "stages: [{stage: qat}, {stage: prune_structured, sparsity: 0.5, from: float}]"
    assert load_recipe(write(HEAD + text)).stages[1].from_ == "float"


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        ("nothing_like_it", "detector.plugin: there is no plug-in 'nothing_like_it'."),
        ("no_module_here:X", "detector.plugin: plug-in 'no_module_here:X': module 'no_module_here' cannot be imported"),
        ("engine_fakes:FakeDetectr", "has no 'FakeDetectr'. Did you mean 'FakeDetector'?"),
        ("engine_fakes:NAME", "expected a class, found"),
        ("engine_fakes:BreaksContract", "not_prunable: expected (self, model), found (self)"),
        (
            "engine_fakes:BreaksHook",
            "distill_loss: expected (self, student, teacher, batch), found (self, student, teacher)",
        ),
    ],
)
def test_a_wrong_plugin_is_refused_at_its_place(write, plugin, expected):
    found = problems_of(write(f"name: x\ndetector: {{plugin: '{plugin}'}}\nstages: [{{stage: qat}}]"))
    assert found[0].startswith("2:20: ")
    assert expected in found[0]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("dta", "data.format: there is no data format 'dta'. Did you mean 'dota'?"),
        ("no_module_here:X", "data format 'no_module_here:X': module 'no_module_here' cannot be imported"),
        ("engine_fakes:FakeDatast", "has no 'FakeDatast'. Did you mean 'FakeDataset'?"),
        (
            "engine_fakes:BreaksDatasetContract",
            "does not keep the contract of compress/dataset.py: digest: expected (self, split), found (self)",
        ),
        ("[dota]", "data.format: ['dota'] is not a name. Expected one of: "),
    ],
)
def test_a_wrong_data_format_is_refused_at_its_place(write, form, expected):
    value = form if form.startswith("[") else f"'{form}'"
    found = problems_of(
        write(
            f"name: x\ndetector: {{plugin: '{engine_fakes.NAME}'}}\ndata: {{format: {value}}}\nstages: [{{stage: qat}}]"
        )
    )
    assert found[0].startswith("3:16: ")
    assert expected in found[0]


def test_the_format_decides_which_fields_the_data_part_has(write):
    head = f"name: x\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
    own = load_recipe(write(head + "data: {root: a}\nstages: [{stage: qat}]"))
    assert own.data["format"] == "engine_fakes:FakeDataset"
    other = head + "data: {format: dota, image_size: [8, 8], flip_probability: 0.1}\nstages: [{stage: qat}]"
    assert load_recipe(write(other)).data["splits"]["val"] == "val"
    found = problems_of(write(head + "data: {image_size: [8, 8], flip_probability: 0.1}\nstages: [{stage: qat}]"))
    assert "unknown field 'flip_probability'" in found[0]


def test_a_missing_framework_of_a_data_set_is_named(write):
    path = write(
        f"name: x\ndetector: {{plugin: '{engine_fakes.NAME}'}}\n"
        "data: {format: 'engine_fakes:NeedsMissingReader'}\nstages: [{stage: qat}]"
    )
    with pytest.raises(DetectorError, match=r"data format 'fake' needs reader_that_is_not_there.*pip install reader_"):
        load_recipe(path)


def test_a_missing_framework_is_a_detector_error_that_names_the_extra(write, monkeypatch):
    monkeypatch.setattr(engine_fakes.NeedsMissingFramework, "REQUIRES", ("mmrotate",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write("name: x\ndetector: {plugin: 'engine_fakes:NeedsMissingFramework'}\nstages: [{stage: qat}]")
    with pytest.raises(
        DetectorError, match=r'mmrotate, which is not installed. Run: make setup-openmmlab .* "\.\[compress,ope'
    ):
        load_recipe(path)
    assert load_recipe(path, check_requires=False).name == "x"


def test_the_schema_accepts_a_right_recipe_and_refuses_a_wrong_one():
    import jsonschema

    schema = json.loads(json.dumps(json_schema([engine_fakes.NAME])))
    recipe = {
        "name": "x",
        "detector": {"plugin": engine_fakes.NAME, "channels": 4},
        "data": {"root": None},
        "stages": [{"stage": "qat", "from": "float"}, {"stage": "prune_structured", "sparsity": 0.5}],
    }
    jsonschema.validate(recipe, schema)
    dota = {"format": "dota", "image_size": [8, 8], "ignore": ["a"]}
    jsonschema.validate(recipe | {"data": dota}, schema)
    for wrong in (
        {"data": dota | {"flip": 1}},
        {"data": {"format": "dota"}},
        {"seed": "x"},
        {"detector": {"plugin": engine_fakes.NAME, "chanels": 4}},
        {"data": {"rot": 1}},
        {"stages": [{"stage": "qat", "bitwidth": 3}]},
        {"stages": [{"stage": "prune_structured"}]},
        {"stages": [{"stage": "qatt"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**recipe, **wrong}, schema)
