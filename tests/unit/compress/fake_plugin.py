"""What the fake plug-ins of these tests have in common; each adds its network and what its test looks at."""

from __future__ import annotations

from typing import Any

from compress.dataset import InputFormat


class FakePlugin:
    """A detector that is its own data set, takes pixels as they are, and lets every layer be changed."""

    NAME = "fake"
    VERSION = "1"

    @property
    def data(self) -> Any:
        return self

    def input_format(self) -> InputFormat:
        return InputFormat((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def not_prunable(self, model) -> dict[str, str]:
        return {}

    def not_quantizable(self, model) -> dict[str, str]:
        return {}

    def custom_pruners(self, model) -> dict[type, Any]:
        return {}

    def distill_points(self, model) -> tuple[str, ...]:
        return ()

    def set_train_mode(self, model) -> None:
        model.train()

    def metadata(self) -> dict[str, Any]:
        return {}
