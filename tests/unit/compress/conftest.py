import sys
import textwrap
from collections.abc import Iterator

import pytest

DRY_PLUGIN = """
from pathlib import Path
from typing import Any, ClassVar

from engine_fakes import FakeDetector as Base


class FakeDetector(Base):
    def build(self) -> Any:
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Conv2d(3, 16, 3, 2, 1)
                self.body = nn.Conv2d(16, 16, 3, 1, 1)
                self.head = nn.Conv2d(16, 4, 1)

            def forward(self, images):
                x = self.stem(images).relu()
                x = self.body(x).relu()
                # here
                return (self.head(x),)

        return Net()

    def example_input(self, batch_size: int = 1) -> Any:
        import torch

        return torch.zeros(batch_size, 3, *self.data.image_size)

    def not_prunable(self, model) -> dict[str, str]:
        return {"head": "raw output"}

    def not_quantizable(self, model) -> dict[str, str]:
        return {}

    def custom_pruners(self, model) -> dict[type, Any]:
        return {}

    def distill_points(self, model) -> tuple[str, ...]:
        return ("body",)

    def metadata(self) -> dict[str, Any]:
        return {"plugin": "dry"}
"""


@pytest.fixture
def fake_stages() -> Iterator[None]:
    """Put the fake stages in place of the real ones while a test runs."""
    import engine_fakes

    from compress.stages import STAGES

    real = dict(STAGES)
    STAGES.clear()
    STAGES.update(engine_fakes.TABLE)
    yield
    STAGES.clear()  # the schema lists them in their order
    STAGES.update(real)


@pytest.fixture
def on_the_console() -> Iterator[None]:
    """Show messages, warnings and progress as a command does."""
    from compress.progress import console

    with console():
        yield


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Return a function that writes the plug-in, with a line of its forward replaced."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(line="# here"):
        (tmp_path / "dry_plugin.py").write_text(DRY_PLUGIN.replace("# here", line))
        sys.modules.pop("dry_plugin", None)

    write()
    yield write
    sys.modules.pop("dry_plugin", None)


@pytest.fixture
def recipe_file(tmp_path, plugin):
    path = tmp_path / "a.yaml"
    path.write_text(
        textwrap.dedent("""\
        name: dry
        detector: {plugin: 'dry_plugin:FakeDetector'}
        data: {image_size: [192, 256]}
        stages:
          - {stage: train}
          - {stage: prune_structured, target: {macs: 0.6}}
          - {stage: prune_unstructured, sparsity: 0.3}
          - {stage: qat}
          - {stage: export_onnx}
          - {stage: pack}
        """)
    )
    return path
