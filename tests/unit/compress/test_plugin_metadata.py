"""What a model file says of its pictures, whoever wrote the plug-in."""

from types import SimpleNamespace

import pytest

from compress.plugins import deploy_metadata
from detectors.data.formats.dota import DotaData, DotaDataset


@pytest.mark.parametrize("limits", [None, (7000.0, 8200.0)])
def test_the_value_range_of_the_data_set_is_written_into_the_metadata(limits):
    data = DotaDataset(DotaData(image_size=(64, 64), value_range=limits), ("ship",))
    detector = SimpleNamespace(data=data, metadata=lambda: {"plugin": "mine"})
    expected = {} if limits is None else {"value_range": [7000.0, 8200.0]}
    assert deploy_metadata(detector) == {"plugin": "mine"} | expected
    assert deploy_metadata(SimpleNamespace(data=object(), metadata=dict)) == {}
