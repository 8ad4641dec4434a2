"""A finished run into TensorBoard: curves of its trainings, numbers of its stages, its report and pictures."""

from __future__ import annotations

from pathlib import Path

from compress.curves import Curves
from compress.pictures.decoding import read_image
from compress.trackers.run_record import RunRecord


def to_tensorboard(run: RunRecord, folder: Path) -> tuple[Path, bool]:
    """Write a run below a folder of TensorBoard's.

    Args:
        run: it.
        folder: what `tensorboard --logdir` is given.

    Returns:
        Folder of the run, and whether it was written now: the same run is there once.

    Raises:
        StageError: TensorBoard is not installed, or the folder cannot be written.
    """
    root = folder / f"{run.name}-{run.digest[:8]}"
    if root.is_dir():
        return root, False
    for label, rows in run.curves.items():
        curves = Curves(root / label)
        for epoch, values in rows.items():
            curves.scalars(values, epoch)
        curves.close()
    curves = Curves(root)
    curves.scalars(dict(run.numbers), 0)
    if run.settings:
        lines = "\n".join(f"| {name} | {_cell(text)} |" for name, text in run.settings.items())
        curves.text("recipe", f"| field | value |\n|---|---|\n{lines}")
    for path in run.files:
        if path.name == "report.md":
            curves.text("report", path.read_text(encoding="utf-8"))
    for path in run.pictures:
        image = read_image(path)
        curves.picture(path.stem, path.read_bytes(), (image.shape[0], image.shape[1]))
    curves.close()
    return root, True


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
