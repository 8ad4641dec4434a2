"""The machine and the versions that numbers were measured with: what records, reports and cache keys say of them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    "krimp", "torch", "torchvision", "accelerate", "brevitas", "torch-pruning", "onnx", "onnxruntime", "numpy",
    "huffman", "numba", "safetensors", "pydantic", "onedl-mmcv", "onedl-mmengine", "onedl-mmdetection",
    "onedl-mmrotate", "opencv-python-headless",
)  # fmt: skip
_FOR_LATENCY = ("onnxruntime", "numpy", "opencv-python-headless")
_CPU_FEATURES = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, memory, system, Python, commit, and the versions of the libraries that are installed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: version for name in DISTRIBUTIONS if (version := version_of(name)) is not None}
    sizes = {"usable_cores": usable_cores(), "memory_bytes": memory}
    return {**latency_machine(), **sizes, **source_commit(), "versions": versions}


def latency_machine() -> dict[str, Any]:
    """Return of the machine and the versions what decides latency; None stands for a version that is not there."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cpu_features": _cpu_features(),
        "governor": _read_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in _FOR_LATENCY},
    }


def machine_key() -> dict[str, Any]:
    """Return of the machine what the key of a latency depends on: CPU, usable cores, operating system."""
    return {"cpu": cpu_name(), "cores": usable_cores(), "system": platform.system().lower()}


def cpu_name() -> str:
    """Return the CPU's name as the system states it."""
    for line in _cpu_lines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int | None:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def thread_count() -> int:
    """Return the threads of numeric work in this process: torch's where it is loaded, else those of OpenMP."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else usable_cores() or 1


@cache
def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def source_commit(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """Return the git commit of the running code and whether files were changed since; empty outside a checkout."""
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return {}
    return {"commit": commit, "uncommitted_changes": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_features() -> list[str]:
    for line in _cpu_lines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            return [name for name in _CPU_FEATURES if name in flags]
    return []


def _cpu_lines() -> list[str]:
    return (_read_text(Path("/proc/cpuinfo")) or "").splitlines()


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
