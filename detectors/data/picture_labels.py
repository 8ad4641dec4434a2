"""Labels of given pictures, from files that are named on a command line: COCO's JSON, or text files of YOLO or DOTA.

Unlike a data set (`detectors/data/source.py`) nothing has to lie in its format's own folders. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from compress.errors import DataError, suggest
from compress.pictures.decoding import AS_IT_IS, Reading
from compress.progress import warn
from detectors.data.formats import coco, dota, yolo
from detectors.data.labels import HEADERS, IGNORED, LabelledObject, dropped_text, is_of_yolo
from detectors.data.places import NearNames, class_name, inspect_images, is_label, names_in, read_label_text
from detectors.data.problems import Findings, raise_all
from detectors.data.samples import Sample, Truth
from detectors.data.source import FORMATS

_FOLDERS = ("labelTxt", "labels")  # below the one that is named
_NAME_FILE = "classes.txt"  # LabelImg writes it beside the labels: a name a line
Found = tuple[list[Sample], list[str]]


@dataclass(frozen=True)
class PictureLabels:
    """Labels of pictures.

    Attributes:
        path: file or folder that was named.
        format: 'coco', 'yolo' or 'dota'.
        pictures: whose labels they are.
        reading: how pictures are read.
    """

    path: Path
    format: str
    pictures: tuple[Path, ...]
    reading: Reading = AS_IT_IS

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the classes that the files declare, in their order; those of DOTA, which has none, by the alphabet.

        Raises:
            DataError: a file that declares classes is wrong.
        """
        if self.format == "coco":
            return coco.document_names(self.path)
        if self.format == "dota":
            return dota.names_of(self._text_files[0].values())
        for place in (self.path, self.path.parent):
            for file in [place] if place.is_file() else [place / name for name in yolo.DATA_FILES]:
                if file.is_file():
                    return yolo.read_data_file(file).names
        listed = self._folder / _NAME_FILE if self._folder is not None else None
        if listed is None or not listed.is_file():
            return ()
        return tuple(class_name(line) for line in read_label_text(listed)[0].splitlines() if line.strip())

    @property
    def are_ordered(self) -> bool:
        """Return whether the order of the names is that of a network trained on these files."""
        return self.format != "dota"

    def truths(self, table: Mapping[str, int], numbered: Sequence[str], *, upright: bool) -> list[Truth]:
        """Return what is to be found in each picture.

        Args:
            table: class name -> label index, `labels.IGNORED` for ignored ones.
            numbered: names of classes by number, for files that have numbers alone.
            upright: the network finds upright boxes: the rectangles around turned ones are taken.

        Raises:
            DataError: lists everything that is wrong with the labels.
        """
        if self.format == "coco":
            boxes = "bbox" if upright else "rotated"
            found = coco.read_pictures(self.path, self.pictures, table, boxes=boxes, reading=self.reading)
        else:
            found = self._from_text(table, self.names or numbered)
        findings = Findings.of(*found)
        raise_all(f"labels {self.path}", findings.mistakes, advice="Fix these files:")
        if findings.dropped:
            warn(f"labels {self.path}: {dropped_text(findings.dropped)}")
        truths = [Truth.from_objects(sample.objects) for sample in found[0]]
        return [truth.upright() for truth in truths] if upright else truths

    def _from_text(self, table: Mapping[str, int], numbered: Sequence[str]) -> Found:
        files, problems = self._text_files
        if not any(picture.stem in files for picture in self.pictures):
            hint = NearNames(names_in(self._folder)).hint(self.pictures[0].stem) if self._folder else ""
            raise DataError(
                f"{self.path}: no labels of any of the {len(self.pictures)} pictures, expected "
                f"{self.pictures[0].stem}.txt and so on.{hint}"
            )
        near = NearNames(path.name for stem, path in files.items() if stem not in {one.stem for one in self.pictures})
        looks = inspect_images(self.pictures, "header", self.reading, "check pictures")
        samples = []
        for picture, seen in zip(self.pictures, looks, strict=True):
            label, hint = files.get(picture.stem), near.hint(picture.stem)
            if label is None and (hint or self.format == "dota"):
                problems.append(f"{self.path}: no labels of {picture.name} (they may be empty).{hint}")
            elif self.format == "dota":
                assert label is not None
                sample, wrong = dota.read_sample(picture.stem, picture, label, table, seen)
                samples.append(sample)
                problems += wrong
            else:
                problems += seen.problems
                objects, wrong = list[LabelledObject](), list[str]()
                if label is not None and not seen.problems:
                    objects, wrong = yolo.read_labels(picture, label, numbered, table, seen.size)
                samples.append(Sample(picture.stem, picture, tuple(objects)))
                problems += wrong
        return samples, problems

    @cached_property
    def _folder(self) -> Path | None:
        """Return the folder of text files, None where they lie beside each picture."""
        if self.path.is_file():
            return None
        for place in (self.path, *(self.path / name for name in _FOLDERS)):
            if any(is_label(Path(name)) and name != _NAME_FILE for name in names_in(place)):
                return place
        return self.path

    @cached_property
    def _text_files(self) -> tuple[dict[str, Path], list[str]]:
        """Return stem of a picture -> its label file, and names that are there twice."""
        if self._folder is not None:
            return dota.label_files(self._folder)
        places = {picture.stem: yolo.label_path(picture) for picture in self.pictures}
        return {stem: place for stem, place in places.items() if place.is_file()}, []


def open_labels(
    path: Path, pictures: Sequence[Path], *, format_name: str | None = None, reading: Reading = AS_IT_IS
) -> PictureLabels:
    """Open the labels of pictures.

    Args:
        path: a JSON file, a folder of text files, or the YAML file of a data set in YOLO format.
        pictures: files.
        format_name: one of `source.FORMATS`; None looks at what lies there.
        reading: how pictures are read.

    Raises:
        DataError: nothing lies there, or nothing of a known format.
    """
    if format_name is not None and format_name not in FORMATS:
        raise DataError(f"format of labels {format_name!r}: unknown.{suggest(format_name, FORMATS)}")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, expected labels.")
    kind = format_name or _format_of(path, pictures)
    if (kind == "coco") != (path.is_file() and path.suffix.lower() not in (".yaml", ".yml")):
        expected = "a JSON file" if kind == "coco" else "a folder of text files"
        raise DataError(f"{path}: labels of format {kind} are {expected}. Name that, or another format.")
    return PictureLabels(path, kind, tuple(pictures), reading)


def _format_of(path: Path, pictures: Sequence[Path]) -> str:
    if path.is_file():
        return {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(path.suffix.lower(), "coco")
    files, _ = PictureLabels(path, "dota", tuple(pictures))._text_files
    for picture in pictures:
        lines = read_label_text(files[picture.stem])[0].splitlines() if picture.stem in files else []
        rows = [line.split() for line in lines if line.strip() and not line.lower().startswith(HEADERS)]
        if rows:
            return "yolo" if is_of_yolo(rows[0]) else "dota"
    documents = sorted(name for name in names_in(path) if name.lower().endswith(".json"))
    if documents and not files:
        raise DataError(f"{path}: a folder with {documents[0]}. Name the file itself if it is COCO's.")
    return "yolo"


def label_table(
    names: Sequence[str], classes: Sequence[str], merged: Mapping[str, str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return class name in the labels -> label index, and the names that the network does not have: ignored.

    Names that differ by case, blanks or hyphens alone are one.

    Args:
        names: that labels declare.
        classes: of the network.
        merged: name in the labels -> class that it counts as.
    """
    known = {_plain(name): label for label, name in enumerate(classes)}
    known |= {_plain(name): known[_plain(target)] for name, target in merged.items()}
    table = {class_name(name): label for label, name in enumerate(classes)}
    table |= {name: known.get(_plain(name), IGNORED) for name in (*merged, *names) if name not in table}
    return table, tuple(name for name in names if table[name] == IGNORED)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
