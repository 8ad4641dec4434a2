"""Find a detector or a data set by name, check that it keeps its contract and that its framework is there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.dataset import BreaksDown, CountsObjects, Dataset, DescribesFolder, HasValueRange, Preloads
from compress.detector import HOOKS, DecodesInTorch, Deploy, Detector
from compress.errors import DetectorError, shortened, suggest

_LONGEST_NAME = 100  # letters of a plug-in's name that are compared with those known


@dataclass(frozen=True)
class Axis:
    """One of the things that others may bring: where it is looked for, and what it must keep.

    Attributes:
        word: what a message calls it.
        contract: the protocol that its classes keep.
        hooks: protocols that they may keep besides.
        source: the file that a message points to.
        group: of the entry points.
        module: module of a name that the project brings.
        attribute: what holds the class there.
    """

    word: str
    contract: type
    hooks: tuple[type, ...]
    source: str
    group: str
    module: str
    attribute: str


DETECTORS = Axis(
    "plug-in", Detector, HOOKS, "compress/detector.py", "krimp.detectors", "detectors.{name}.adapter", "DETECTOR"
)
DATASETS = Axis(
    "data format",
    Dataset,
    (Preloads, DescribesFolder, HasValueRange, CountsObjects, BreaksDown),
    "compress/dataset.py",
    "krimp.datasets",
    "detectors.data.formats.{name}",
    "DATASET",
)
# A detector that is only deployed, never trained, has no adapter: a folder with a `deploy.py` is enough.
DEPLOYS = Axis("deployed part", object, (), "", "krimp.deploys", "detectors.{name}.deploy", "make_deploy")
# What judges networks by what they find: an object with the members of `compress.shrink.judge.boxes.Judging`.
JUDGINGS = Axis("judging part", object, (), "", "krimp.judgings", "detectors.{name}.judging", "JUDGING")
HEADS = Axis("head", object, (), "", "krimp.heads", "detectors.{name}.head", "HEAD")  # code named as module:NAME
COMMANDS = Axis("command group", object, (), "", "krimp.commands", "detectors.{name}.commands", "app")

ALLOW_CODE = "KRIMP_ALLOW_CODE"  # environment variable: recipes may import any module

# Import name -> extra of the distribution `krimp` that installs it.
_EXTRAS = {
    **dict.fromkeys(("mmcv", "mmengine", "mmdet", "mmrotate"), "openmmlab"),
    **dict.fromkeys(("torch", "torchvision", "accelerate", "safetensors", "onnx", "brevitas"), "compress"),
}


def available_plugins(axis: Axis = DETECTORS) -> list[str]:
    """Return the names that can be given without a module path; imports none of them."""
    names = {point.name for point in importlib.metadata.entry_points(group=axis.group)}
    package, _, below = axis.module.partition(".{name}")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        files = Path(folder).glob(f"*{below.replace('.', '/')}.py")
        names.update(file.relative_to(folder).parts[0].removesuffix(".py") for file in files)
    return sorted(name for name in names if not name.startswith("_"))


def find_plugin(name: str) -> type[Detector]:
    """Return the detector class of a name and check its members and signatures.

    Args:
        name: a folder under `detectors/`, an entry point of the group `krimp.detectors`, or
            'package.module:NAME'.

    Raises:
        DetectorError: nothing has that name, its import fails, or it does not keep the contract.
    """
    found: type[Detector] = _find(name, DETECTORS)
    return found


def find_dataset(name: str) -> type[Dataset]:
    """Return the data set class of a format and check its members and signatures.

    Args:
        name: a module of `detectors/data/formats/`, an entry point of the group `krimp.datasets`, or
            'package.module:NAME'.

    Raises:
        DetectorError: nothing has that name, its import fails, or it does not keep the contract.
    """
    found: type[Dataset] = _find(name, DATASETS)
    return found


def find_commands(name: str) -> Any:
    """Return the command group (`typer.Typer`) of a name.

    Args:
        name: a folder under `detectors/` with a module `commands`, or an entry point of the group `krimp.commands`.

    Raises:
        DetectorError: nothing has that name, or its import fails.
    """
    return _import(name, COMMANDS)


def find_judging(name: str = "heads") -> Any:
    """Return what judges networks by what they find.

    Raises:
        DetectorError: nothing has that name, or its import fails.
    """
    return _import(name, JUDGINGS)


def find_own_head(name: str, *, allow_code: bool) -> Any:
    """Return a head of one's own code, 'package.module:NAME'.

    Raises:
        DetectorError: it may not be imported without leave, or its import fails.
    """
    refusal = None if allow_code or is_code_allowed() else code_refusal(name, HEADS)
    if refusal is not None:
        raise DetectorError(f"--head: {refusal}")
    return _import(name, HEADS)


def code_refusal(name: str, axis: Axis = DETECTORS) -> str | None:
    """Return why a name in a recipe or a command may not be followed without leave, or None if it may.

    A name of its own is that of a folder of the project or of an installed package. `package.module:NAME` imports
    whatever module can be found, so it needs leave, unless an entry point or the project itself brings that module.
    """
    module, colon, attribute = name.partition(":")
    points = importlib.metadata.entry_points(group=axis.group)
    own = axis.module.partition(".")[0]
    if not colon or module.partition(".")[0] == own or (module, attribute) in [(p.module, p.attr) for p in points]:
        return None
    return (
        f"{name!r} imports the module {module!r}, which then runs with all your rights. If you trust it, add "
        f"--allow-code or set {ALLOW_CODE}=1."
    )


def is_code_allowed() -> bool:
    """Return whether the environment gives recipes leave to import any module."""
    return os.environ.get(ALLOW_CODE, "").lower() in ("1", "true", "yes", "on")


def _find(name: str, axis: Axis) -> Any:
    plugin = _import(name, axis)
    faults = contract_faults(plugin, axis)
    if faults:
        raise DetectorError(f"{axis.word} {name!r} does not keep the contract of {axis.source}: {'; '.join(faults)}.")
    return plugin


def missing_frameworks(plugin: type[Detector] | type[Dataset]) -> list[str]:
    """Return the import names of `REQUIRES` that are not installed; imports nothing."""
    return [name for name in plugin.REQUIRES if importlib.util.find_spec(name.partition(".")[0]) is None]


def check_frameworks(plugin: type[Detector] | type[Dataset], axis: Axis = DETECTORS) -> None:
    """Raise DetectorError if a framework that the plug-in needs is not installed."""
    missing = missing_frameworks(plugin)
    if not missing:
        return
    extras, target = sorted({_EXTRAS[name] for name in missing if name in _EXTRAS}), "setup"
    if "openmmlab" in extras:
        extras, target = ["compress", "openmmlab"], "setup-openmmlab"
    others = [name for name in missing if name not in _EXTRAS]
    commands = [f'make {target} (in Krimp\'s folder), or pip install ".[{",".join(extras)}]" there'] if extras else []
    commands += [f"pip install {' '.join(others)}"] if others else []
    raise DetectorError(
        f"{axis.word} {plugin.NAME!r} needs {', '.join(missing)}, which is not installed. "
        f"Run: {' and '.join(commands)}."
    )


def make_detector(detector: Mapping[str, Any], data: Mapping[str, Any]) -> Detector:
    """Return the detector that a validated recipe describes, with its data set."""
    plugin = find_plugin(detector["plugin"])
    config = plugin.CONFIG.model_validate({key: value for key, value in detector.items() if key != "plugin"})
    dataset = find_dataset(data.get("format", plugin.DATA))
    fields = dataset.CONFIG.model_validate({key: value for key, value in data.items() if key != "format"})
    return plugin(config, dataset(fields, getattr(config, "classes", ())))


def load_deploy(meta: Mapping[str, Any]) -> Deploy:
    """Return the torch-free part of the plug-in that a model file names in its metadata, made from that metadata.

    Args:
        meta: the model's `krimp.deploy`; its `plugin` is a folder under `detectors/` or an entry point, one with an
            adapter or one that is only deployed.
            `package.module:NAME` is refused: a model file from a stranger must not decide which module is imported.

    Raises:
        DetectorError: nothing installed has that name, its import fails, or the metadata does not fit it.
    """
    name = meta.get("plugin")
    trained, deployed = available_plugins(), available_plugins(DEPLOYS)
    if not isinstance(name, str) or name not in (*trained, *deployed):
        near = suggest(str(name)[:_LONGEST_NAME], sorted({*trained, *deployed}))
        raise DetectorError(f"the model was made by plug-in {shortened(name)}, which is not installed here.{near}")
    if name in trained:
        return _make_deploy(name, find_plugin(name), meta)
    deploy: Deploy = _import(name, DEPLOYS)(meta)
    return deploy


def deploy_of(detector: Detector) -> Deploy:
    """Return the torch-free part of a detector, made from the metadata that its model files will carry.

    Where only the network itself can decode its outputs (`DecodesInTorch`), that takes its place.

    Raises:
        DetectorError: its import fails, or it refuses the metadata.
    """
    in_torch = detector.torch_deploy() if isinstance(detector, DecodesInTorch) else None
    if in_torch is not None:
        return in_torch
    return _make_deploy(detector.NAME, type(detector), detector.metadata())


def check_metadata(detector: Detector) -> None:
    """Refuse a detector whose deployed part would refuse the metadata of its model files.

    One whose outputs the network itself may have to decode is passed over: what it says needs the network.

    Raises:
        DetectorError: says which field.
    """
    if isinstance(detector, DecodesInTorch):
        return
    try:
        _make_deploy(detector.NAME, type(detector), deploy_metadata(detector))
    except DetectorError as error:
        what = str(error).removesuffix(" Export the model again.")
        raise DetectorError(f"model files of this recipe would be refused: {what} Correct it in the recipe.") from error


def deploy_metadata(detector: Detector) -> dict[str, Any]:
    """Return what a model file carries as `krimp.deploy`: the detector's own, and the value range of its data set."""
    data = detector.data
    limits = data.value_range if isinstance(data, HasValueRange) else None
    return detector.metadata() | ({} if limits is None else {"value_range": list(limits)})


def _make_deploy(name: str, plugin: type[Detector], meta: Mapping[str, Any]) -> Deploy:
    try:
        module: Any = importlib.import_module(plugin.DEPLOY)
    except ImportError as error:
        raise DetectorError(f"plug-in {name!r}: module {plugin.DEPLOY!r} cannot be imported: {error}.") from error
    if not callable(getattr(module, "make_deploy", None)):
        raise DetectorError(f"plug-in {name!r}: {plugin.DEPLOY} has no function make_deploy(meta). Add it.")
    deploy: Deploy = module.make_deploy(meta)
    return deploy


def contract_faults(plugin: Any, axis: Axis = DETECTORS) -> list[str]:
    """Return how a class breaks a contract, one 'member: expected, found' each."""
    if not inspect.isclass(plugin):
        return [f"expected a class, found {plugin!r}"]
    wanted = _methods(axis.contract)
    faults = [f"{name} is missing" for name in _class_variables(axis.contract) if not hasattr(plugin, name)]
    for name, expected in wanted.items():
        if not callable(getattr(plugin, name, None)):
            faults.append(f"{name}{_parameters_text(expected)} is missing")
    optional = {name: expected for hook in axis.hooks for name, expected in _methods(hook).items()}
    for name, expected in {**wanted, **optional}.items():
        found = getattr(plugin, name, None)
        if callable(found) and not _accepts(inspect.signature(found), expected):
            faults.append(f"{name}: expected {_parameters_text(expected)}, found {inspect.signature(found)}")
    return faults


def _import(name: str, axis: Axis) -> Any:
    module_name, colon, attribute = name.partition(":")
    if colon:
        if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
            raise DetectorError(f"{axis.word} {name!r}: expected package.module:NAME.")
        return _attribute(name, axis, module_name, attribute)
    for point in importlib.metadata.entry_points(group=axis.group):
        if point.name == name:
            return _attribute(name, axis, point.module, point.attr)
    if name not in available_plugins(axis):
        raise DetectorError(f"there is no {axis.word} {name!r}.{suggest(name, available_plugins(axis))}")
    return _attribute(name, axis, axis.module.format(name=name), axis.attribute)


def _attribute(name: str, axis: Axis, module_name: str, attribute: str) -> Any:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DetectorError(f"{axis.word} {name!r}: module {module_name!r} cannot be imported: {error}.") from error
    except (Exception, SystemExit) as error:  # whatever the code of others does
        what = f"{type(error).__name__}: {error}".removesuffix(".")
        raise DetectorError(f"{axis.word} {name!r}: module {module_name!r} fails when imported: {what}.") from error
    if not hasattr(module, attribute):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise DetectorError(f"{axis.word} {name!r}: {module_name} has no {attribute!r}.{suggest(attribute, names)}")
    return getattr(module, attribute)


def _class_variables(contract: type) -> list[str]:
    return [name for name in inspect.get_annotations(contract) if name.isupper()]


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
