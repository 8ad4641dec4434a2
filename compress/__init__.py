"""Compression passes, codec and measurement for trained detectors."""

__version__ = "0.1.0"
