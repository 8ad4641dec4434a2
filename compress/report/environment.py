"""The machine and the versions that a report was made with."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path
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
    return {**machine, "usable_cores": usable, "memory_bytes": memory, **source_commit(), "versions": versions}


def source_commit(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Return the git commit of the running code and whether files were changed since; empty outside a checkout."""
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "environment.py") is None:
        return {}
    return {"commit": commit, "uncommitted_changes": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
