"""Files that commands leave, never in the place of a file that is somebody's.

One rule: a file that is there is replaced only if it has the very bytes already, if an earlier run of the same command
wrote it and nobody has changed it since, or with --force. What commands wrote stands with its hashes in the manifest
`.krimp-written.jsonl` of its folder, a line a file, so that repeating a command works and a killed one can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from compress.errors import CompressError, printable
from compress.whole_file import refusal_of_place, whole_file

MANIFEST = ".krimp-written.jsonl"
MAX_MANIFEST_BYTES = 1 << 26  # of a larger one nothing is believed
_SHOWN = 3
_Hashes = dict[str, set[str]]  # name of a file -> what it was left with


def make_folder(folder: Path, error: type[CompressError] = CompressError) -> None:
    """Make a folder for outputs, with those above it, if it is not there.

    Raises:
        CompressError: of the kind `error`; something else has that name, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        taken = isinstance(problem, FileExistsError | NotADirectoryError)
        why = "it, or a part of its path, is a file" if taken else f"it cannot be made: {problem.strerror}"
        raise error(f"{printable(folder)}: {why}. Expected a folder to write in; choose another place.") from problem


class Outputs:
    """The outputs of one command."""

    def __init__(self, command: str, *, force: bool = False, error: type[CompressError] = CompressError) -> None:
        """Name the command.

        Args:
            command: as it is typed after `krimp`, or a script.
            force: replace whatever is there.
            error: what a refusal raises.
        """
        self._command, self._force, self._error = command, force, error
        self._typed = command if command.startswith("scripts/") else f"krimp {command}"
        self._known: dict[Path, _Hashes] = {}

    def may_replace(self, path: Path, content_sha256: str | None = None) -> bool:
        """Return whether nothing of somebody's is lost if a file is written.

        Args:
            path: the file; behind a link the file itself counts.
            content_sha256: hex hash of what is to be written, if it is known.
        """
        if self._force or not path.is_file():
            return True
        return self.left(path) or (content_sha256 is not None and _sha256(path) == content_sha256)

    def left(self, path: Path) -> bool:
        """Return whether a file is there as an earlier run of this command left it."""
        known = self._hashes(path.parent).get(path.name, ())
        return bool(known) and path.is_file() and _sha256(path) in known

    def claim(self, paths: Sequence[Path], content_sha256: str | None = None, *, places: bool = True) -> None:
        """Refuse files that are somebody's, and places where no file can be written, before any work is done.

        Args:
            paths: what is to be written.
            content_sha256: hex hash of what is to be written, if it is one file and known.
            places: look at the places, too; False for a batch of which one shall not end the others.

        Raises:
            CompressError: of the kind of this command; names up to three files.
        """
        for path in paths if places else ():
            if (why := refusal_of_place(path)) is not None:
                raise self._error(f"{printable(path)}: {why}. Choose another place.")
        taken = [path for path in paths if not self.may_replace(path, content_sha256)]
        if taken:
            names = ", ".join(printable(path) for path in taken[:_SHOWN])
            more = f" and {len(taken) - _SHOWN} more" if len(taken) > _SHOWN else ""
            raise self._error(
                f"{names}{more}: there already, and not as an earlier `{self._typed}` left it. Choose another "
                "place, or replace it with --force."
            )

    @contextmanager
    def file(self, path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
        """Open a file that appears whole or not at all; see `compress.whole_file.whole_file`.

        Raises:
            CompressError: it is somebody's.
            OSError: it cannot be written.
        """
        self.claim([path])
        with whole_file(path, synced=synced) as file:
            yield file
            file.flush()
            self.wrote(path, _sha256(Path(file.name)))  # first listed, then there: a killed command can be repeated

    def write(self, path: Path, content: str | bytes, *, synced: bool = True) -> None:
        """Write a file whole or not at all; text becomes UTF-8.

        Raises:
            CompressError: it is somebody's, and has another content.
            OSError: it cannot be written.
        """
        data = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(data).hexdigest()
        self.claim([path], digest)
        with whole_file(path, synced=synced) as file:
            file.write(data)
            self.wrote(path, digest)

    def wrote(self, path: Path, content_sha256: str | None = None) -> None:
        """Note in the manifest of its folder what a file was left with.

        Args:
            path: the file.
            content_sha256: hex hash of its content; None reads the file.

        Raises:
            OSError: the manifest cannot be written.
        """
        digest = content_sha256 or _sha256(path)
        hashes = self._hashes(path.parent).setdefault(path.name, set())
        if digest in hashes:
            return
        hashes.add(digest)
        line = json.dumps({"file": path.name, "command": self._command, "sha256": digest}) + "\n"
        manifest = path.parent / MANIFEST
        if os.path.lexists(manifest) and not _is_plain(manifest):
            return
        with open(manifest, "a", encoding="utf-8", opener=_open_no_link) as file:
            file.write(line)

    def _hashes(self, folder: Path) -> _Hashes:
        if folder not in self._known:
            self._known[folder] = _read(folder / MANIFEST, self._command)
        return self._known[folder]


def _read(manifest: Path, command: str) -> _Hashes:
    """Return what a command left in a folder; lines that are no such thing are passed over."""
    found: _Hashes = {}
    if not _is_plain(manifest) or manifest.stat().st_size > MAX_MANIFEST_BYTES:
        return found
    for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if entry["command"] == command:
                found.setdefault(entry["file"], set()).add(entry["sha256"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def _is_plain(path: Path) -> bool:
    """Return whether it is a regular file itself, and no link: a folder of a stranger's may hold one to anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
