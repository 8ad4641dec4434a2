"""Command groups that others bring: those of `detectors/*/commands.py` and of the entry points `krimp.commands`.

A group is a `typer.Typer`. None is imported before its name, or the list of all commands, is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from compress.errors import CompressError
from compress.outputs import Outputs
from compress.plugins import COMMANDS, available_plugins, find_commands


class Engine:
    """What the engine lends to the commands of a group: `obj` of their `typer.Context`."""

    @staticmethod
    def open_predictor(model: Path, *, score_threshold: float | None = None, threads: int = 0) -> Any:
        """Open a model file; see `compress.runtime.detect.open_predictor`."""
        from compress.runtime.detect import open_predictor

        return open_predictor(model, score_threshold=score_threshold, threads=threads)

    @staticmethod
    def outputs(command: str, *, force: bool, error: type[CompressError]) -> Outputs:
        """Return what decides which files a command may replace; see `compress.outputs.Outputs`."""
        return Outputs(command, force=force, error=error)


class CommandGroups(TyperGroup):
    """The commands of the engine and the groups that are found."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names: the engine's own first."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in available_plugins(COMMANDS) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of the engine, or a group."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in available_plugins(COMMANDS):
            return own
        return get_command(find_commands(cmd_name))
