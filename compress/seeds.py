"""Seeds of a training."""

from __future__ import annotations

import hashlib
import random
import sys


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a seed for one epoch, in 0..2**31-1, unrelated between neighbouring seeds and epochs."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, if it is imported, torch."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)
