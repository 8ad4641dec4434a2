"""Work that says nothing: what a stage tells it tells when it runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from compress.progress import silenced


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing and warn of nothing."""
    with silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
