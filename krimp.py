"""Krimp from Python: plan and run recipes, pack and read model files, detect objects.

    import krimp

    result = krimp.run("recipe.yaml", {"data.root": "/data/hit-uav"})     # RunResult: artifacts, facts, report
    found = krimp.Predictor("model.krimp").detect("photo.jpg")            # Found: arrays, JSON, supervision
    session = krimp.open_session("model.krimp")                           # of ONNX Runtime

Each name lies in `compress`, which is typed, and is imported when it is first used: `import krimp` loads nothing else.
What Krimp raises on purpose is a `krimp.CompressError`. Messages and progress go to the logger `krimp`:
`logging.basicConfig(level=logging.INFO)` shows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.codec import inspect_file as inspect
    from compress.codec import load as load
    from compress.codec import load_tensors as load_tensors
    from compress.codec import pack_file as pack
    from compress.codec import unpack_file as unpack
    from compress.codec import verify_file as verify
    from compress.engine.from_python import plan as plan
    from compress.engine.from_python import run as run
    from compress.engine.outcome import Plan as Plan
    from compress.engine.outcome import RunResult as RunResult
    from compress.errors import CompressError as CompressError
    from compress.runtime.found import Found as Found
    from compress.runtime.model_file import Predictor as Predictor
    from compress.runtime.session import open_session as open_session

    __version__: str

__all__ = [
    "CompressError",
    "Found",
    "Plan",
    "Predictor",
    "RunResult",
    "inspect",
    "load",
    "load_tensors",
    "open_session",
    "pack",
    "plan",
    "run",
    "unpack",
    "verify",
]

_PLACES = {
    "CompressError": ("compress.errors", "CompressError"),
    "Found": ("compress.runtime.found", "Found"),
    "Plan": ("compress.engine.outcome", "Plan"),
    "Predictor": ("compress.runtime.model_file", "Predictor"),
    "RunResult": ("compress.engine.outcome", "RunResult"),
    "inspect": ("compress.codec", "inspect_file"),
    "load": ("compress.codec", "load"),
    "load_tensors": ("compress.codec", "load_tensors"),
    "open_session": ("compress.runtime.session", "open_session"),
    "pack": ("compress.codec", "pack_file"),
    "plan": ("compress.engine.from_python", "plan"),
    "run": ("compress.engine.from_python", "run"),
    "unpack": ("compress.codec", "unpack_file"),
    "verify": ("compress.codec", "verify_file"),
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported now."""
    if name == "__version__":
        value: Any = importlib.import_module("compress.machine").version_of("krimp")
    elif name in _PLACES:
        module, attribute = _PLACES[name]
        value = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module 'krimp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
