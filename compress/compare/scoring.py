"""Score model files on a data set, as they are when they are deployed: no torch, no recipe but for its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.compare.sides import Images, Scored, Side
from compress.dataset import METRICS, BreaksDown, Dataset
from compress.detector import AdaptsTruth
from compress.errors import DataError, RecipeError
from compress.plugins import DATASETS, code_refusal, find_dataset, is_code_allowed
from compress.progress import track
from compress.recipe.first import describe_folder
from compress.recipe.loading import load_recipe
from compress.recipe.overrides import apply_override
from compress.recipe.yaml_source import Document
from compress.runtime.detect import open_predictor


@dataclass(frozen=True)
class DataSource:
    """A data set before it is known which classes a model has.

    Attributes:
        told: how it was named.
        fields: of a recipe's `data:` part, `format` included.
        allow_code: its format may be code of one's own.
    """

    told: str
    fields: Mapping[str, Any]
    allow_code: bool = False

    def open(self, classes: Sequence[str]) -> Dataset:
        """Return the data set with the classes of a model.

        Raises:
            RecipeError: a field is wrong, one line each, or the format is code that may not be imported.
        """
        name = str(self.fields["format"])
        refusal = None if self.allow_code or is_code_allowed() else code_refusal(name, DATASETS)
        if refusal is not None:
            raise RecipeError(f"{self.told}: data.format: {refusal}")
        kind = find_dataset(name)
        fields = {name: value for name, value in self.fields.items() if name != "format"}
        try:
            config = kind.CONFIG.model_validate(fields)
        except ValidationError as error:
            lines = [f"data.{'.'.join(map(str, one['loc']))}: {one['msg']}." for one in error.errors()]
            raise RecipeError([f"{self.told}: {line}" for line in lines]) from error
        return kind(config, classes)


def open_data(named: Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> DataSource:
    """Return the data set that a folder is, or that a recipe names.

    Args:
        named: folder of a data set; or a recipe, whose `data:` part is taken.
        overrides: `data.FIELD=VALUE` each; of a recipe any field.
        allow_code: let a recipe import any module.

    Raises:
        RecipeError: an override or the recipe is wrong.
        DataError: no format knows the folder.
    """
    if not named.is_dir():
        recipe = load_recipe(named, overrides, check_requires=False, allow_code=allow_code)
        return DataSource(str(named), recipe.data, allow_code)
    wrong = [override for override in overrides if not override.startswith("data.")]
    if wrong:
        raise RecipeError(
            f"--set {wrong[0]}: --data is a folder, so there are only its fields. Expected data.FIELD=..."
        )
    name, folder = describe_folder(named)
    document = Document({"data": {"format": name, **folder.data}}, str(named))
    for override in overrides:
        apply_override(document, override)
    if document.problems:
        raise RecipeError([str(problem) for problem in document.problems])
    return DataSource(str(named), document.data["data"])


def data_of(sides: Sequence[Side]) -> DataSource | None:
    """Return the data set of the first run among some sides, None if there is none or it is not there any more."""
    for side in sides:
        fields = dict((side.recipe or {}).get("data") or {})
        if fields.get("format") and fields.get("root") and Path(str(fields["root"])).exists():
            return DataSource(f"the recipe of {side.name}", fields)
    return None


def score_side(side: Side, data: DataSource, split: str, *, threads: int = 1) -> Side:
    """Return a side with what its model file finds now; see `score_file`.

    Raises:
        DataError: it has no model file.
    """
    if side.model is None:
        raise DataError(f"{side.name}: has no ONNX or .krimp file, which --data could score. Name a file, or its run.")
    return replace(side, scored=score_file(side.model, data, split, threads=threads))


def score_file(model: Path, data: DataSource, split: str, *, threads: int = 1) -> Scored:
    """Run a model file on a split and score what it finds.

    Args:
        model: ONNX or `.krimp` file that says how it is run (`krimp.deploy`).
        data: where the images are.
        split: of them.
        threads: of ONNX Runtime; 0 means one per core.

    Raises:
        CodecError, DetectorError, StageError: the file cannot be run.
        DataError: the split is wrong, or has nothing to be found.
    """
    predictor = open_predictor(model, threads=threads)
    deploy = predictor.deploy
    dataset = data.open(deploy.classes)
    found, truths, names = [], [], []
    pictures = dataset.images(split)
    for picture in track(pictures, f"{model.name} on {split}", len(pictures)):
        found.append(predictor.detect(picture.image))
        truths.append(deploy.adapt_truth(picture.truth) if isinstance(deploy, AdaptsTruth) else picture.truth)
        names.append(picture.name)
    if not found:
        raise DataError(f"{data.told}: split {split!r} has no image, expected at least one.")
    scores = dataset.score(found, truths)
    if scores.num_objects == 0:
        raise DataError(f"{data.told}: split {split!r} has no object of {', '.join(deploy.classes)}, expected some.")
    breakdown = dataset.break_down(found, truths, names) if isinstance(dataset, BreaksDown) else None
    drawn = {metric: getattr(scores, f"{metric}_resampled") for metric in METRICS}
    return Scored(
        images=Images(
            split=split,
            digest=dataset.digest(split),
            num_images=scores.num_images,
            num_objects=scores.num_objects,
            classes=tuple(deploy.classes),
            max_dets=scores.max_dets,
        ),
        values={metric: getattr(scores, metric) for metric in METRICS},
        intervals={metric: ends for metric in METRICS if (ends := getattr(scores, f"{metric}_interval"))},
        resampled={metric: values for metric, values in drawn.items() if values is not None},
        outcomes=() if breakdown is None else tuple(breakdown.images),
        score_threshold=None if breakdown is None else breakdown.score_threshold,
    )
