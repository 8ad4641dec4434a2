"""What `--json` means: one JSON document on standard output, all else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from compress.artifact import to_json
from compress.report.document import finite

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; messages and progress go to standard error.")
]


@contextmanager
def only_documents(wanted: bool) -> Iterator[None]:
    """Send to standard error what the block prints, that of its child processes and of C libraries included.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    sys.stdout.flush()
    stdout, kept = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout = stdout
        os.dup2(kept, 1)
        os.close(kept)


def print_document(value: Any) -> None:
    """Print data as JSON."""
    print(document_text(value), end="", flush=True)


def document_text(value: Any) -> str:
    """Return data as JSON with a line end; numbers that are not finite become null."""
    return json.dumps(finite(json.loads(to_json(value))), indent=1, allow_nan=False) + "\n"
