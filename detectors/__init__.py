"""Detector plug-ins; each sub-package is one detector with its data reader."""
