"""Plain data as YAML that people can edit: stages one below the other, what is in them in one line where it fits."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

_WIDTH = 110


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return data as YAML 1.2; mappings inside fields are written in flow style."""
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_block(dict(data)), stream)
    return stream.getvalue()


def _block(value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        mapping = CommentedMap({key: _block(entry, depth + 1) for key, entry in value.items()})
        if depth > 2:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        entries = CommentedSeq(_block(entry, depth + 1) for entry in value)
        if depth > 1 or not any(isinstance(entry, dict) for entry in value):
            entries.fa.set_flow_style()
        return entries
    return value
