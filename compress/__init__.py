"""Compression passes, codec and measurement for trained detectors."""
