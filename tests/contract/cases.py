"""Which plug-ins there are, and the small configurations on which the suite runs.

Plug-ins are found as the engine finds them, so a new one is tested as soon as its folder is there. What to build
stands in `cases/PLUGIN.yaml`, a list with a `name`, the recipe's `detector:` part without plugin and classes, if need
be more of its `data:` part, `slow: true` for what takes longer than a minute, and `fitted_map50` where raw
outputs fitted to the loss cannot be nearly perfect (say why).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import DetectorError
from compress.plugins import available_plugins, find_dataset, find_plugin
from compress.recipe.yaml_reader import parse_yaml

FOLDER = Path(__file__).parent / "cases"
CLASSES = ("ship", "vehicle", "plane")  # of the synthetic scenes
IGNORED = "dontcare"
OPENMMLAB = {"mmcv", "mmengine", "mmdet", "mmrotate"}
SIZE = 128  # px, side of the scenes


@dataclass(frozen=True)
class Case:
    """One configuration of one plug-in."""

    plugin: str
    name: str
    detector: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    fitted_map50: float = 0.95

    @property
    def needs_openmmlab(self) -> bool:
        """Whether the plug-in imports a package of the OpenMMLab stack."""
        return not OPENMMLAB.isdisjoint(find_plugin(self.plugin).REQUIRES)

    def make(self, root: Path) -> Any:
        """Return the detector on the data set at `root`."""
        kind = find_plugin(self.plugin)
        config = kind.CONFIG.model_validate({"classes": CLASSES} | self.detector)
        return kind(config, self.dataset(kind.DATA, config.classes, root))

    def dataset(self, form: str, classes: tuple[str, ...], root: Path | None = None) -> Any:
        """Return the data set at `root`, in a format."""
        kind = find_dataset(form)
        data = {"root": root and str(root), "image_size": (SIZE, SIZE), "ignore": (IGNORED,)} | self.data
        return kind(kind.CONFIG.model_validate(data), classes)


def cases_of(plugin: str) -> list[Case]:
    """Return the configurations of a plug-in.

    Raises:
        DetectorError: it has none.
    """
    path = FOLDER / f"{plugin}.yaml"
    if not path.is_file():
        raise DetectorError(f"{path}: missing, expected small configurations of plug-in {plugin!r}. Write one.")
    return [Case(plugin=plugin, **entry) for entry in parse_yaml(path.read_text(), path.name).data]


def all_cases() -> list[Case]:
    """Return every configuration of every plug-in; one without a file is left to the test that asks for it."""
    return [
        case for plugin in available_plugins() if (FOLDER / f"{plugin}.yaml").is_file() for case in cases_of(plugin)
    ]
