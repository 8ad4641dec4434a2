"""How good a small network still is: by labels, by the float network's own detections, or by its raw outputs."""

from compress.shrink.judge.making import make_judge
from compress.shrink.judge.verdict import Judge, Verdict, metadata_of

__all__ = ["Judge", "Verdict", "make_judge", "metadata_of"]
