"""An artifact: a sealed folder whose manifest, written last, names the hash of every file."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from compress.errors import StageError, printable
from compress.json_text import parse_json
from compress.kind import Kind
from compress.whole_file import sync, write_whole

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_NEW = ".new"  # artifacts in the making, beside the sealed ones
_OLD = ".old"  # artifacts that were just replaced
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # that systems leave wherever somebody looks


@dataclass(frozen=True)
class Artifact:
    """A sealed folder.

    Attributes:
        path: the folder.
        stage: stage type that made it ('qat'); `label` is its name in the recipe.
        kind: what it holds.
        key: content key, hex sha256.
        digest: sha256 over the hashes of its files.
        facts: what the stage's `run` returned.
        seconds, peak_memory_bytes: measured by the pipeline (0 if not measured).
        lineage: labels of the stages it came through, oldest first, its own last.
        key_parts: what the key was made from, kept to explain why a stage must run again.
        threads: of the numeric libraries, None where that was not noted. The same number on the same machine gives the
            same bytes, another one may differ in the last digits; it is no part of the key.
    """

    path: Path
    stage: str
    label: str
    kind: Kind
    key: str
    digest: str
    facts: dict[str, Any]
    seconds: float
    peak_memory_bytes: int
    lineage: tuple[str, ...]
    key_parts: Mapping[str, Any] | None = None
    threads: int | None = None

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.path / name


def file_digest(path: Path) -> str:
    """Return the hex sha256 of a file, or of a folder's files and their names."""
    if path.is_dir():
        return hash_json({name: file_digest(path / name) for name in _file_names(path)})
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON with sorted keys; numpy scalars, paths, dataclasses and sets become plain values."""
    return json.dumps(value, sort_keys=True, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, small torch tensors
        return value.tolist()
    raise TypeError(f"facts must be JSON, found {type(value).__name__}")


def new_folder(root: Path, name: str) -> Path:
    """Return an empty folder to write an artifact into; `seal` moves it to `root / name`."""
    folder = root / _NEW / name
    remove(folder)
    return make_folder(folder)


def make_folder(folder: Path) -> Path:
    """Make a folder if it is not there; a link to nowhere in its place, or in that of the folder above, goes."""
    for place in (folder.parent, folder):
        if place.is_symlink() and not place.exists():
            place.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove(folder: Path) -> None:
    """Remove a folder if it is there; of a link only the link, for what is behind it is somebody's.

    Raises:
        StageError: a file is in its place.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
    elif folder.exists():
        raise StageError(f"{folder}: is a file, expected the folder of a stage. Move it away.")


def seal(draft: Artifact, *, root: Path, name: str) -> Artifact:
    """Hash and fsync the files of a folder, write its manifest last and move it into place.

    At every moment either the old artifact or the new one is whole; the old one is removed only
    after the new one stands.

    Args:
        draft: all but the digest; its path is a folder from `new_folder`, filled by a stage.
        root: folder of all artifacts of the recipe.
        name: final folder name, e.g. '03_qat'.

    Returns:
        The artifact at its final place.
    """
    folder = draft.path
    files = {file_name: file_digest(folder / file_name) for file_name in _file_names(folder)}
    manifest = {
        "format_version": FORMAT_VERSION,
        "stage": draft.stage,
        "label": draft.label,
        "kind": str(draft.kind),
        "key": draft.key,
        "key_parts": draft.key_parts,
        "digest": hash_json(files),
        "files": files,
        "facts": draft.facts,
        "seconds": draft.seconds,
        "peak_memory_bytes": draft.peak_memory_bytes,
        "threads": draft.threads,
        "lineage": draft.lineage,
        "sealed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    manifest = json.loads(to_json(manifest))
    manifest["manifest_digest"] = hash_json(manifest)
    for file_name in files:
        sync(folder / file_name)
    for subfolder in [path for path in folder.rglob("*") if path.is_dir()]:
        sync(subfolder)
    write_whole(folder / MANIFEST, to_json(manifest, indent=1))
    sync(folder)
    return open_artifact(_put_in_place(folder, root, name))


def _put_in_place(folder: Path, root: Path, name: str) -> Path:
    final, old = root / name, root / _OLD / name
    if final.is_dir() and not final.is_symlink():
        old.parent.mkdir(exist_ok=True)
        retire(old, root)
        final.rename(old)
    remove(final)
    folder.rename(final)
    sync(root)
    retire(old, root)
    return final


def copy_into(artifact: Artifact, *, root: Path, name: str) -> Artifact:
    """Copy a sealed folder among other artifacts, whole or not at all, and return the copy."""
    folder = new_folder(root, name)
    shutil.copytree(artifact.path, folder, ignore=shutil.ignore_patterns(MANIFEST, *_LITTER), dirs_exist_ok=True)
    write_whole(folder / MANIFEST, artifact.file(MANIFEST).read_bytes())
    return open_artifact(_put_in_place(folder, root, name))


def link(artifact: Artifact, *, root: Path, name: str) -> Artifact:
    """Put a link to a sealed folder among other artifacts; it is relative, so that both can be moved together.

    Args:
        artifact: lies elsewhere.
        root: folder of the artifacts of a run; what has the name or the label there goes.
        name: of the link, e.g. '03_qat'.

    Returns:
        The artifact as it is found behind the link.
    """
    target = root / name
    for old in dict.fromkeys(filter(None, (find_folder(root, artifact.label), target))):
        if old != target or not old.is_symlink():
            retire(old, root)
    making = make_folder(root / _NEW) / name
    remove(making)
    making.symlink_to(os.path.relpath(artifact.path.resolve(), making.parent.resolve().parent))
    making.rename(target)
    sync(root)
    return replace(artifact, path=target)


def retire(folder: Path, root: Path) -> None:
    """Remove a sealed folder that is not needed any more; one in which somebody's files lie is kept beside the others.

    Somebody's is what the manifest does not name, or names with another hash: notes, a report that was edited.

    Args:
        folder: the folder; of a link only the link goes.
        root: folder of all artifacts of the recipe.

    Raises:
        StageError: a file is in its place.
    """
    found = [] if folder.is_symlink() else _files_of_somebody(folder)
    if not found:
        remove(folder)
        return
    kept = next(place for n in itertools.count(1) if not (place := root / f"{folder.name}.kept-{n}").exists())
    folder.rename(kept)
    logging.getLogger("krimp").warning(
        f"{printable(kept)}: the stage was made again, and {printable(found[0])} is not as it left it there, so the "
        "old folder was kept"
    )


def _files_of_somebody(folder: Path) -> list[str]:
    names = [name for name in _file_names(folder) if Path(name).name not in (MANIFEST, *_LITTER)]
    try:
        left = _read_manifest(folder)["files"]
    except StageError:
        left = {}
    return [name for name in names if left.get(name) != file_digest(folder / name)]


def recover(root: Path) -> None:
    """Finish or undo what a killed run left between two renames; call it under the lock."""
    for own in (root / _NEW, root / _OLD):
        if own.is_symlink():  # what is behind it is somebody's, and not for us to finish or to undo
            own.unlink()
    for name in _subfolders(root / _NEW):
        folder = root / _NEW / name
        if (folder / MANIFEST).exists():
            _put_in_place(folder, root, name)
        else:
            remove(folder)
    for name in _subfolders(root / _OLD):
        if (root / name).exists():
            retire(root / _OLD / name, root)
        else:
            (root / _OLD / name).rename(root / name)


def find_folder(root: Path, label: str) -> Path | None:
    """Return the sealed folder of a label, whatever its number, or None."""
    pattern = re.compile(rf"\d+_{re.escape(label)}")
    names = [name for name in _subfolders(root) if pattern.fullmatch(name)]
    return root / names[-1] if names else None


def open_artifact(path: Path) -> Artifact:
    """Read the manifest of a sealed folder; file hashes are not checked, see `damage`.

    Raises:
        StageError: there is no manifest, or it is not whole.
    """
    manifest = _read_manifest(path)
    return Artifact(
        path=path,
        stage=manifest["stage"],
        label=manifest["label"],
        kind=Kind(manifest["kind"]),
        key=manifest["key"],
        digest=manifest["digest"],
        facts=manifest["facts"],
        seconds=manifest["seconds"],
        peak_memory_bytes=manifest["peak_memory_bytes"],
        lineage=tuple(manifest["lineage"]),
        key_parts=manifest["key_parts"],
        threads=manifest.get("threads"),
    )


def damage(path: Path) -> str | None:
    """Return what is wrong with a sealed folder, or None: reads and hashes every file of it."""
    try:
        files = _read_manifest(path)["files"]
    except StageError as error:
        return str(error)
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{file}: file is missing"
        if file_digest(file) != expected:
            return f"{file}: content differs from its hash in {MANIFEST}"
    return None


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(file.read_text())
        stored = manifest.pop("manifest_digest")
    except FileNotFoundError:
        raise StageError(f"{file}: file is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise StageError(f"{file}: not a whole manifest") from None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StageError(f"{file}: format version {manifest.get('format_version')}, expected {FORMAT_VERSION}")
    if hash_json(manifest) != stored:
        raise StageError(f"{file}: content differs from its own hash")
    return manifest


def _file_names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
