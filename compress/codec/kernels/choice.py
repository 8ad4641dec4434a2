"""Which kernels run: chosen once for a file, before its first byte is coded or decoded."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from compress.codec.kernels import by_numpy
from compress.codec.kernels.contract import Kernels
from compress.errors import CodecError

NAMES = ("auto", "numpy", "numba")
NUMBA_FROM = 1 << 24  # bytes from which importing numba pays: NumPy decodes about 80 MB/s and encodes fewer


def choose(name: str, num_bytes: int) -> Kernels:
    """Return the kernels for coding or decoding so many bytes in all.

    Args:
        name: 'numpy', 'numba', or 'auto': numba where it is installed and saves more time than its import costs, or
            is there already; the environment variable KRIMP_NUMBA=0 forbids it.
        num_bytes: of the original file.

    Raises:
        CodecError: numba is asked for and not installed.
        ValueError: there are no kernels of that name.
    """
    if name not in NAMES:
        raise ValueError(f"kernels {name!r}: unknown. Expected one of {', '.join(map(repr, NAMES))}.")
    if name == "numpy" or (name == "auto" and not _is_worth_it(num_bytes)):
        return by_numpy
    try:
        from compress.codec.kernels import by_numba
    except ImportError as error:
        raise CodecError(
            f"kernels 'numba': cannot be imported ({error}). Expected the package numba; install it or ask for 'numpy'."
        ) from error
    return by_numba


def _is_worth_it(num_bytes: int) -> bool:
    if os.environ.get("KRIMP_NUMBA") == "0":
        return False
    if is_loaded():
        return True
    return num_bytes >= NUMBA_FROM and find_spec("numba") is not None


def is_loaded() -> bool:
    """Return True if this process has paid for numba's import."""
    return "compress.codec.kernels.by_numba" in sys.modules
