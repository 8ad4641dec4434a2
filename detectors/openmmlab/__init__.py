"""Detectors of MMRotate 1.x, named in a recipe by their configuration."""
