"""How a command ends: an error in one line, and an exit code for each kind of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from compress.engine.child import INTERRUPTED, is_disk_full
from compress.errors import CompressError, StageError, printable, printable_lines
from compress.progress import console


def run_command(work: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a command with messages on the console; print what stops it; return the exit code.

    Args:
        work: does it, and may return an exit code.
        debug: let errors pass, traceback and all.

    Raises:
        Exception: any with `debug`; else those that are no `CompressError` and come from no file.
    """
    try:
        with console():
            return work() or 0
    except CompressError as error:
        if debug:
            raise
        print(f"error: {printable_lines(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        if debug:
            raise
        if is_disk_full(error):
            place = f" at {printable(error.filename)}" if error.filename else ""
            what = f"the disk is full or a quota is used up{place}"
            print(f"error: {what}. Free some space and try again.", file=sys.stderr)
            return StageError.exit_code
        if error.filename is None:
            raise
        what = f"{printable(error.filename)}: {error.strerror}"
        print(f"error: {what}. Check the path, its permissions and the free space.", file=sys.stderr)
        return CompressError.exit_code
