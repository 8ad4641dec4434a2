"""The machine and the versions that a report was made with."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

DISTRIBUTIONS = (
    "krimp", "torch", "torchvision", "accelerate", "brevitas", "torch-pruning", "onnx", "onnxruntime", "numpy",
    "huffman", "numba", "safetensors", "pydantic", "onedl-mmcv", "onedl-mmengine", "onedl-mmdetection",
    "onedl-mmrotate", "opencv-python-headless",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """Return CPU, cores, memory, system, Python and the versions of the libraries that are installed."""
    from compress.runtime.latency import environment

    machine = environment()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: version for name in DISTRIBUTIONS if (version := _version(name)) is not None}
    return {**machine, "usable_cores": usable, "memory_bytes": memory, "versions": versions}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
