"""JSON of strangers is refused in words, whoever reads it."""

import json

import pytest

from compress.artifact import _read_manifest
from compress.cli.detecting import _read_ids
from compress.errors import CompressError
from compress.json_text import parse_json
from compress.names_file import read_names
from compress.runtime.session import METADATA_KEY
from compress.shrink.judge.properties import deploy_metadata
from detectors.data.formats.coco import _load
from detectors.data.merging import read_detections

HOSTILE = {"deep": "[" * 100_000, "long number": '{"a": ' + "9" * 5000 + "}", "cut": '{"a": ', "nothing": ""}


@pytest.fixture(params=HOSTILE)
def text(request):
    return HOSTILE[request.param]


def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"deep|digits|Expecting"):
        parse_json(text)
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("reader", [_read_ids, read_names, read_detections, _read_manifest])
def test_readers_of_files_refuse_it(tmp_path, text, reader):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(CompressError, match=r"manifest\.json"):
        reader(tmp_path if reader is _read_manifest else path)


def test_annotations_and_metadata_are_refused_too(tmp_path, text):
    (tmp_path / "val.json").write_text(text)
    document, problems = _load(tmp_path / "val.json")
    assert document is None
    assert "val.json" in problems[0]
    with pytest.raises(CompressError, match="is no JSON"):
        deploy_metadata({METADATA_KEY: text}, "net.onnx")


def test_good_json_is_read(tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"a": "b"}))
    assert read_names(tmp_path / "names.json") == {"a": "b"}
