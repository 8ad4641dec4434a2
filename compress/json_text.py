"""JSON that may come from anybody: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse_json(content: str | bytes) -> Any:
    """Return what JSON text holds.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
