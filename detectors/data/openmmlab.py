"""Imports the OpenMMLab packages once, without the notices about optional data sets that they print."""

from __future__ import annotations

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import mmrotate.datasets
    import mmrotate.evaluation  # noqa: F401
