"""Find a detector plug-in by name, check that it keeps the contract and that its framework is there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.detector import HOOKS, Deploy, Detector
from compress.errors import DetectorError, suggest

FOLDER = "detectors"  # package whose sub-packages with an `adapter` module are plug-ins
ENTRY_POINTS = "krimp.detectors"

# Import name -> extra of the distribution `krimp` that installs it.
_EXTRAS = {
    **dict.fromkeys(("mmcv", "mmengine", "mmdet", "mmrotate"), "openmmlab"),
    **dict.fromkeys(("torch", "torchvision", "accelerate", "safetensors", "onnx", "brevitas"), "compress"),
}


def available_plugins() -> list[str]:
    """Return the names of the plug-ins that can be named without a module path; imports none."""
    names = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    spec = importlib.util.find_spec(FOLDER)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        names.update(path.parent.name for path in Path(folder).glob("*/adapter.py"))
    return sorted(names)


def find_plugin(name: str) -> type[Detector]:
    """Return the plug-in class of a name and check its members and signatures.

    Args:
        name: a folder under `detectors/`, an entry point of the group `krimp.detectors`, or
            'package.module:NAME'.

    Raises:
        DetectorError: nothing has that name, its import fails, or it does not keep the contract.
    """
    plugin = _import(name)
    faults = contract_faults(plugin)
    if faults:
        raise DetectorError(
            f"plug-in {name!r} does not keep the contract of compress/detector.py: {'; '.join(faults)}."
        )
    return plugin


def missing_frameworks(plugin: type[Detector]) -> list[str]:
    """Return the import names of `REQUIRES` that are not installed; imports nothing."""
    return [name for name in plugin.REQUIRES if importlib.util.find_spec(name.partition(".")[0]) is None]


def check_frameworks(plugin: type[Detector]) -> None:
    """Raise DetectorError if a framework that the plug-in needs is not installed."""
    missing = missing_frameworks(plugin)
    if not missing:
        return
    extras = sorted({_EXTRAS[name] for name in missing if name in _EXTRAS})
    if "openmmlab" in extras:
        extras = ["compress", "openmmlab"]
    others = [name for name in missing if name not in _EXTRAS]
    commands = [f'make setup (in Krimp\'s folder), or pip install ".[{",".join(extras)}]" there'] if extras else []
    commands += [f"pip install {' '.join(others)}"] if others else []
    raise DetectorError(
        f"plug-in {plugin.NAME!r} needs {', '.join(missing)}, which is not installed. Run: {' and '.join(commands)}."
    )


def make_detector(detector: Mapping[str, Any], data: Mapping[str, Any]) -> Detector:
    """Return the detector that a validated recipe describes."""
    plugin = find_plugin(detector["plugin"])
    config = {key: value for key, value in detector.items() if key != "plugin"}
    return plugin(plugin.CONFIG.model_validate(config), plugin.DATA.model_validate(data))


def load_deploy(meta: Mapping[str, Any]) -> Deploy:
    """Return the torch-free part of the plug-in that a model file names in its metadata, made from that metadata.

    Args:
        meta: the model's `krimp.deploy`; its `plugin` is a folder under `detectors/` or an entry point.
            `package.module:NAME` is refused: a model file from a stranger must not decide which module is imported.

    Raises:
        DetectorError: nothing installed has that name, its import fails, or the metadata does not fit it.
    """
    name = str(meta.get("plugin"))
    if name not in available_plugins():
        raise DetectorError(
            f"the model was made by plug-in {name!r}, which is not installed here.{suggest(name, available_plugins())}"
        )
    return _make_deploy(name, find_plugin(name), meta)


def deploy_of(detector: Detector) -> Deploy:
    """Return the torch-free part of a detector, made from the metadata that its model files will carry.

    Raises:
        DetectorError: its import fails, or it refuses the metadata.
    """
    return _make_deploy(detector.NAME, type(detector), detector.metadata())


def _make_deploy(name: str, plugin: type[Detector], meta: Mapping[str, Any]) -> Deploy:
    try:
        module: Any = importlib.import_module(plugin.DEPLOY)
    except ImportError as error:
        raise DetectorError(f"plug-in {name!r}: module {plugin.DEPLOY!r} cannot be imported: {error}.") from error
    if not callable(getattr(module, "make_deploy", None)):
        raise DetectorError(f"plug-in {name!r}: {plugin.DEPLOY} has no function make_deploy(meta). Add it.")
    deploy: Deploy = module.make_deploy(meta)
    return deploy


def contract_faults(plugin: Any) -> list[str]:
    """Return how a class breaks the Detector contract, one 'member: expected, found' each."""
    if not inspect.isclass(plugin):
        return [f"expected a class, found {plugin!r}"]
    faults = [f"{name} is missing" for name in _class_variables() if not hasattr(plugin, name)]
    for name, expected in _methods(Detector).items():
        if not callable(getattr(plugin, name, None)):
            faults.append(f"{name}{_parameters_text(expected)} is missing")
    optional = {name: expected for hook in HOOKS for name, expected in _methods(hook).items()}
    for name, expected in {**_methods(Detector), **optional}.items():
        found = getattr(plugin, name, None)
        if callable(found) and not _accepts(inspect.signature(found), expected):
            faults.append(f"{name}: expected {_parameters_text(expected)}, found {inspect.signature(found)}")
    return faults


def _import(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if colon:
        return _attribute(name, module_name, attribute)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _attribute(name, point.module, point.attr)
    if name not in available_plugins():
        raise DetectorError(f"there is no plug-in {name!r}.{suggest(name, available_plugins())}")
    return _attribute(name, f"{FOLDER}.{name}.adapter", "DETECTOR")


def _attribute(name: str, module_name: str, attribute: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DetectorError(f"plug-in {name!r}: module {module_name!r} cannot be imported: {error}.") from error
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise DetectorError(f"plug-in {name!r}: {module_name} has no {attribute!r}.{suggest(attribute, names)}")
    return getattr(module, attribute)


def _class_variables() -> list[str]:
    return [name for name in Detector.__annotations__ if name.isupper()]


def _methods(protocol: type) -> dict[str, inspect.Signature]:
    """Return the methods of a protocol as they are found on a class: `self` is an argument, but not of static ones."""
    members = {name: getattr(protocol, name) for name in vars(protocol) if not name.startswith("_")}
    return {name: inspect.signature(member) for name, member in members.items() if inspect.isfunction(member)}


def _accepts(found: inspect.Signature, expected: inspect.Signature) -> bool:
    """Return whether a method can be called as the contract calls it."""
    probe = [object()] * _count(expected, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    by_name = {p.name: object() for p in expected.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    required = {p.name for p in expected.parameters.values() if p.default is inspect.Parameter.empty}
    fewest = [object()] * sum(1 for p in expected.parameters.values() if p.name in required and p.name not in by_name)
    try:
        found.bind(*probe, **by_name)
        found.bind(*fewest, **{name: value for name, value in by_name.items() if name in required})
    except TypeError:
        return False
    return True


def _count(signature: inspect.Signature, kind: Any) -> int:
    return sum(1 for parameter in signature.parameters.values() if parameter.kind is kind)


def _parameters_text(signature: inspect.Signature) -> str:
    return f"({', '.join(str(parameter).split(':')[0] for parameter in signature.parameters.values())})"
